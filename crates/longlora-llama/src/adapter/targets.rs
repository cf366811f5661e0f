//! Which layers PEFT adapts, and how: its rules, and what comes of them in our words.

use std::collections::{BTreeMap, BTreeSet};

use fancy_regex::Regex;
use longlora_adapters::{AdapterError, LoraConfig, TargetModule};

use crate::modules::{ModuleKind, NamedModule};

/// `target_modules` of an adapter without LoRA: PEFT's word for it, since it takes an empty list for a mistake.
pub(super) const NO_TARGETS: &str = "dummy-target-modules";

/// PEFT's word for every linear layer but the head, in any case.
pub(super) const ALL_LINEAR: &str = "all-linear";

/// A list of names, or a regular expression.
pub(super) enum Names {
    /// Each is a path, or the end of one.
    Several(BTreeSet<String>),
    /// Fits whole paths.
    Regex(Regex),
    /// All linear layers.
    AllLinear,
}

/// The layers of `layers_to_transform`.
pub(super) struct Layers {
    pub(super) indices: Vec<usize>,
    /// Each captures an index in the beginning of a path; the first that fits counts.
    pub(super) patterns: Vec<Regex>,
}

/// What PEFT's options say of the layers to adapt (`check_target_module_exists` in its `tuners_utils.py`).
pub(super) struct Targets {
    pub(super) names: Names,
    pub(super) excluded: Option<Names>,
    pub(super) layers: Option<Layers>,
}

impl Names {
    /// `None`, if it is no regular expression that can be read.
    pub(super) fn regex(pattern: &str) -> Option<Self> {
        Regex::new(&format!(r"\A(?:{pattern})\z")).ok().map(Self::Regex)
    }

    fn contain(&self, module: &NamedModule) -> bool {
        match self {
            Self::Several(names) => endings(&module.name).any(|ending| names.contains(ending)),
            Self::Regex(regex) => fits(regex, &module.name),
            Self::AllLinear => matches!(module.kind, ModuleKind::Linear | ModuleKind::Other),
        }
    }
}

impl Layers {
    /// Captures the index of a layer, `pattern` being the name of the list of layers.
    pub(super) fn pattern(pattern: &str) -> Option<Regex> {
        Regex::new(&format!(r"\A.*\.{pattern}\.(\d+)\.")).ok()
    }

    fn contain(&self, module: &str) -> bool {
        let index = |pattern: &Regex| {
            let captures = pattern.captures(module).ok().flatten()?;
            captures.get(1)?.as_str().parse::<usize>().ok()
        };
        let index = self.patterns.iter().find_map(index);
        index.is_some_and(|index| self.indices.contains(&index))
    }
}

impl Targets {
    /// Whether PEFT adapts this module.
    pub(super) fn contain(&self, module: &NamedModule) -> bool {
        if self.excluded.as_ref().is_some_and(|excluded| excluded.contain(module)) {
            return false;
        }
        match (&self.names, &self.layers) {
            (names, None) => names.contain(module),
            // A whole path is meant as it stands.
            (Names::Several(names), Some(_)) if names.contains(&module.name) => true,
            (names, Some(layers)) => names.contain(module) && layers.contain(&module.name),
        }
    }
}

/// The value of the first pattern that fits a module: PEFT's `get_pattern_key`.
pub(super) fn first_match<T: Copy>(patterns: &[(Regex, T)], module: &str) -> Option<T> {
    patterns.iter().find(|(pattern, _)| fits(pattern, module)).map(|&(_, value)| value)
}

/// A pattern of `rank_pattern` or `alpha_pattern`: it fits the end of a path, from a dot on.
pub(super) fn ending(pattern: &str) -> Option<Regex> {
    Regex::new(&format!(r"\A(.*\.)?({pattern})\z")).ok()
}

/// An expression that gives up, after a million steps back, fits nothing; then the adapter's tensors have no place.
fn fits(regex: &Regex, name: &str) -> bool {
    regex.is_match(name).unwrap_or(false)
}

/// `a.b.c`, `b.c`, `c`
fn endings(path: &str) -> impl Iterator<Item = &str> {
    let after_dots = path.match_indices('.').map(|(dot, _)| &path[dot + 1..]);
    std::iter::once(path).chain(after_dots)
}

/// The same updates of these modules, in names that any reader takes for the same: a kind of layer where all layers of
/// the kind are alike, else whole paths.
pub(super) fn described(lora: &LoraConfig, modules: &[NamedModule]) -> LoraConfig {
    let linear = modules.iter().filter(|module| module.kind == ModuleKind::Linear);
    let updates = linear.map(|module| {
        let update = lora.of(&module.name);
        (module.name.as_str(), update.map(|update| (update.rank, update.alpha)))
    });
    describe(lora, &updates.collect::<Vec<_>>()).expect("only known layers have updates")
}

/// `lora` with other targets and patterns: the rank and alpha of every linear layer, `None` where it has no update.
///
/// # Errors
/// [`AdapterError::UnknownTarget`], if a layer with an update is of no kind that we know.
pub(super) fn describe(
    lora: &LoraConfig,
    updates: &[(&str, Option<(usize, f64)>)],
) -> Result<LoraConfig, AdapterError> {
    let adapted = || updates.iter().filter_map(|&(name, update)| Some((name, update?)));
    let kinds: BTreeSet<&str> = adapted().map(|(name, _)| last_word(name)).collect();
    let targets: Result<BTreeSet<TargetModule>, _> =
        kinds.iter().map(|kind| kind.parse()).collect();
    let target_modules: Vec<TargetModule> = targets?.into_iter().collect();
    let excluded =
        updates.iter().filter(|(name, update)| update.is_none() && kinds.contains(last_word(name)));
    let ranks: Vec<(&str, usize)> = adapted().map(|(name, (rank, _))| (name, rank)).collect();
    let alphas: Vec<(&str, f64)> = adapted().map(|(name, (_, alpha))| (name, alpha)).collect();
    Ok(LoraConfig {
        exclude_modules: excluded.map(|&(name, _)| name.to_owned()).collect(),
        rank_pattern: pattern(&ranks, lora.rank),
        alpha_pattern: pattern(&alphas, lora.alpha),
        target_modules,
        ..lora.clone()
    })
}

/// Names for the values that are not the default.
fn pattern<T: PartialEq + Copy>(values: &[(&str, T)], default: T) -> BTreeMap<String, T> {
    // The value that all layers of a kind share, if they do.
    let mut shared: BTreeMap<&str, Option<T>> = BTreeMap::new();
    for &(name, value) in values {
        let kind = shared.entry(last_word(name)).or_insert(Some(value));
        *kind = kind.filter(|&other| other == value);
    }
    let others = values.iter().filter(|&&(_, value)| value != default);
    let named = others.map(|&(name, value)| {
        let alike = shared[last_word(name)].is_some();
        (if alike { last_word(name) } else { name }.to_owned(), value)
    });
    named.collect()
}

fn last_word(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn linear(name: &str) -> NamedModule {
        let name = format!("model.layers.{name}");
        NamedModule { name, kind: ModuleKind::Linear, shape: vec![] }
    }

    fn several(names: &[&str]) -> Names {
        Names::Several(names.iter().map(|&name| name.to_owned()).collect())
    }

    #[track_caller]
    fn check(targets: &Targets, contained: &[&str], others: &[&str]) {
        for name in contained {
            assert!(targets.contain(&linear(name)), "{name}");
        }
        for name in others {
            assert!(!targets.contain(&linear(name)), "{name}");
        }
    }

    #[test]
    fn a_name_is_the_end_of_a_path_and_an_expression_fits_all_of_it() {
        let all = |names| Targets { names, excluded: None, layers: None };
        check(
            &all(several(&["q_proj", "0.mlp.up_proj"])),
            &["1.self_attn.q_proj", "0.mlp.up_proj"],
            &["1.mlp.up_proj", "1.self_attn.my_q_proj", "1.self_attn.q_proj.base"],
        );
        check(
            &all(Names::regex(r"(?!.*gate).*\.1\.(self_attn|mlp)\.\w+_proj").unwrap()),
            &["1.self_attn.q_proj", "1.mlp.up_proj"],
            &["1.mlp.gate_proj", "0.mlp.up_proj", "1.mlp.up_proj.more"],
        );
        check(
            &all(Names::regex("q_proj|.*k_proj").unwrap()),
            &["1.self_attn.k_proj"],
            &["1.self_attn.q_proj"],
        );
        check(&all(Names::AllLinear), &["1.mlp.up_proj"], &[]);
        assert!(Names::regex("(").is_none());
    }

    #[test]
    fn layers_and_exclusions_narrow_the_choice() {
        let patterns = vec![Layers::pattern("[^.]*").unwrap()];
        let targets = Targets {
            names: several(&["q_proj", "model.layers.3.mlp.up_proj"]),
            excluded: Some(several(&["2.self_attn.q_proj"])),
            layers: Some(Layers { indices: vec![1, 2], patterns }),
        };
        check(
            &targets,
            &["1.self_attn.q_proj", "3.mlp.up_proj"],
            &["0.self_attn.q_proj", "11.self_attn.q_proj", "2.self_attn.q_proj"],
        );
    }

    #[test]
    fn the_first_pattern_that_fits_from_a_dot_on_counts() {
        let patterns =
            [(ending(r"layers\.1\..*_proj").unwrap(), 1), (ending("k_proj|q_proj").unwrap(), 2)];
        let value = |name| first_match(&patterns, name);
        assert_eq!(value("model.layers.1.self_attn.q_proj"), Some(1));
        assert_eq!(value("model.layers.11.self_attn.q_proj"), Some(2));
        assert_eq!(value("model.layers.0.self_attn.v_proj"), None);
    }

    #[test]
    fn updates_are_described_by_kinds_where_they_are_alike() {
        let lora = LoraConfig { rank: 4, alpha: 6.0, ..LoraConfig::default() };
        let updates = [
            ("layers.0.q_proj", Some((4, 6.0))),
            ("layers.0.up_proj", Some((2, 6.0))),
            ("layers.1.q_proj", Some((4, 5.0))),
            ("layers.1.up_proj", Some((2, 6.0))),
            ("layers.0.o_proj", None),
            ("layers.1.o_proj", Some((4, 6.0))),
            ("layers.0.k_proj", None),
        ];
        let described = describe(&lora, &updates).unwrap();
        use TargetModule::{OProj, QProj, UpProj};
        assert_eq!(described.target_modules, [QProj, OProj, UpProj]);
        assert_eq!(described.exclude_modules, ["layers.0.o_proj"]);
        assert_eq!(described.rank_pattern, BTreeMap::from([("up_proj".to_owned(), 2)]));
        assert_eq!(described.alpha_pattern, BTreeMap::from([("layers.1.q_proj".to_owned(), 5.0)]));
        let unknown = describe(&lora, &[("layers.0.c_attn", Some((4, 6.0)))]);
        assert_eq!(unknown, Err(AdapterError::UnknownTarget { name: "c_attn".to_owned() }));
    }
}
