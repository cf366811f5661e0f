//! Words to make keys and lists of.

use std::collections::BTreeSet;

/// Fewest words that a list is made of; with fewer, it is made of ours.
const ENOUGH: usize = 500;
/// Letters of a word.
const LETTERS: std::ops::RangeInclusive<usize> = 4..=10;

/// How many pairs of an adjective and a noun there are.
pub(super) const PAIRS: usize = ADJECTIVES.len() * NOUNS.len();

/// An adjective and a noun; the pairs begin anew at [`PAIRS`].
pub(super) fn pair(number: usize) -> String {
    let (noun, adjective) = (number / ADJECTIVES.len() % NOUNS.len(), number % ADJECTIVES.len());
    format!("{}-{}", ADJECTIVES[adjective], NOUNS[noun])
}

/// The different words of 4 to 10 lower-case letters that texts have, if there are at least 500; else those below. RULER
/// has the nouns, adjectives and verbs of the package wonderwords.
pub(super) fn words(texts: &[String]) -> Vec<&str> {
    let all = texts.iter().flat_map(|text| text.split_whitespace());
    let bare = all.map(|word| word.trim_matches(|letter: char| !letter.is_alphanumeric()));
    let own: BTreeSet<&str> = bare.filter(|word| is_plain(word)).collect();
    match own.len() < ENOUGH {
        true => NOUNS.iter().chain(ADJECTIVES).copied().collect(),
        false => own.into_iter().collect(),
    }
}

fn is_plain(word: &str) -> bool {
    LETTERS.contains(&word.chars().count()) && word.chars().all(char::is_lowercase)
}

/// Common things, places, animals and people.
#[rustfmt::skip]
pub(super) const NOUNS: &[&str] = &[
    "acorn", "actor", "album", "alley", "anchor", "angle", "animal", "ankle", "antler", "apple",
    "apron", "arch", "army", "arrow", "artist", "atlas", "attic", "author", "autumn", "avenue",
    "badge", "badger", "bakery", "balcony", "ball", "bamboo", "banana", "banjo", "banner", "barber",
    "barley", "barn", "barrel", "basket", "bath", "beach", "beacon", "beak", "bean", "beard",
    "beaver", "bell", "belt", "bench", "berry", "bicycle", "bird", "biscuit", "blanket", "blossom",
    "board", "boat", "bottle", "boulder", "bowl", "branch", "bread", "breeze", "brick", "bridge",
    "broom", "brother", "brush", "bucket", "buffalo", "building", "bullet", "bundle", "butter",
    "button", "cabbage", "cabin", "cable", "cactus", "cake", "camel", "camera", "camp", "canal",
    "candle", "canoe", "canvas", "canyon", "captain", "carpet", "carrot", "cart", "castle",
    "cathedral", "cattle", "cave", "cellar", "cello", "chain", "chair", "chalk", "chapel",
    "chapter", "cheese", "cherry", "chest", "chicken", "chimney", "circle", "city", "clay", "cliff",
    "cloak", "clock", "cloth", "cloud", "clover", "coast", "coat", "coffee", "coin", "collar",
    "column", "comet", "compass", "cook", "copper", "coral", "corn", "corner", "cottage", "cotton",
    "country", "cousin", "coyote", "cradle", "crane", "crayon", "cricket", "crown", "crystal",
    "cube", "cupboard", "curtain", "cushion", "dagger", "daisy", "dancer", "daughter", "desert",
    "desk", "dinner", "doctor", "dolphin", "donkey", "door", "dragon", "drawer", "dream", "dress",
    "drum", "duck", "dust", "eagle", "easel", "echo", "elbow", "elephant", "ember", "engine",
    "envelope", "evening", "fabric", "factory", "falcon", "farm", "farmer", "father", "feather",
    "fence", "ferry", "field", "finger", "fire", "fish", "flag", "flame", "flower", "flute",
    "forest", "fork", "fountain", "frame", "friend", "frog", "fruit", "furnace", "gallery",
    "garden", "garlic", "gate", "giant", "ginger", "giraffe", "glacier", "glass", "glove", "goat",
    "goose", "grain", "grape", "grass", "gravel", "guitar", "hammer", "hand", "harbor", "harp",
    "harvest", "hawk", "hedge", "helmet", "heron", "hill", "hinge", "honey", "hood", "hook",
    "horse", "hotel", "house", "hunter", "iceberg", "icicle", "igloo", "inkwell", "insect", "iron",
    "island", "ivory", "jacket", "jaguar", "jelly", "jewel", "journey", "judge", "juice", "jungle",
    "kettle", "keyboard", "king", "kitchen", "kite", "kitten", "knee", "knight", "ladder", "ladle",
    "lake", "lamp", "lantern", "laundry", "lawn", "leaf", "leather", "lemon", "letter", "library",
    "lily", "lion", "lizard", "lobster", "locket", "lodge", "lumber", "magnet", "maple", "marble",
    "market", "marsh", "mask", "meadow", "medal", "melon", "mill", "mirror", "mitten", "monkey",
    "moon", "moose", "morning", "moss", "mother", "motor", "mountain", "mouse", "mouth", "muffin",
    "museum", "mustard", "napkin", "necklace", "needle", "nest", "night", "notebook", "nurse",
    "nutmeg", "oasis", "ocean", "olive", "onion", "orange", "orchard", "orchid", "organ", "otter",
    "oven", "oyster", "paddle", "page", "paint", "palace", "palm", "pancake", "panther", "paper",
    "parade", "parcel", "parrot", "path", "peach", "peacock", "pear", "pebble", "pelican", "pencil",
    "pepper", "piano", "picnic", "pigeon", "pillow", "pilot", "pine", "pirate", "planet", "plate",
    "plum", "pocket", "poet", "pond", "pony", "potato", "powder", "prairie", "prince", "pumpkin",
    "puppet", "puzzle", "quarry", "queen", "quilt", "rabbit", "raccoon", "radio", "railway", "rain",
    "raisin", "raven", "ribbon", "rice", "ring", "river", "road", "robin", "rocket", "roof", "room",
    "rooster", "rope", "rose", "saddle", "sailor", "salad", "salmon", "salt", "sand", "sandal",
    "scarf", "school", "scissors", "seal", "season", "shadow", "shark", "sheep", "shelf", "shell",
    "shepherd", "ship", "shirt", "shoe", "shovel", "shower", "sister", "skirt", "snail", "snow",
    "soap", "soldier", "song", "soup", "spade", "sparrow", "spider", "spoon", "spring", "squirrel",
    "stable", "staircase", "station", "statue", "stone", "storm", "stove", "straw", "street",
    "student", "sugar", "summer", "sunset", "swan", "sweater", "table", "tailor", "teacher",
    "teapot", "temple", "tent", "theater", "thimble", "thistle", "thread", "throne", "thunder",
    "ticket", "tiger", "timber", "toast", "tomato", "torch", "tower", "trail", "train", "tray",
    "treasure", "tree", "trumpet", "tulip", "tunnel", "turkey", "turtle", "umbrella", "uncle",
    "valley", "vase", "velvet", "village", "vine", "violin", "visitor", "volcano", "wagon",
    "walnut", "walrus", "water", "weasel", "weather", "wheat", "wheel", "whistle", "willow",
    "window", "winter", "wizard", "wolf", "wood", "wool", "writer", "yogurt", "zebra",
];

/// Common qualities.
#[rustfmt::skip]
pub(super) const ADJECTIVES: &[&str] = &[
    "able", "absent", "active", "afraid", "amber", "ancient", "angry", "ashen", "awake", "awful",
    "bare", "basic", "better", "bitter", "black", "blank", "bleak", "blind", "blue", "blunt",
    "bold", "brave", "brief", "bright", "brisk", "broad", "broken", "brown", "busy", "calm",
    "careful", "cheap", "cheerful", "chilly", "civil", "clean", "clear", "clever", "clumsy",
    "coarse", "cold", "common", "cool", "costly", "crimson", "cruel", "curious", "curly", "damp",
    "dark", "dear", "deep", "delicate", "dense", "distant", "dizzy", "double", "dreary", "dusty",
    "eager", "early", "earnest", "easy", "elegant", "empty", "endless", "exact", "faint", "fair",
    "faithful", "famous", "fancy", "fast", "fierce", "final", "fine", "firm", "flat", "fond",
    "formal", "fragile", "free", "fresh", "friendly", "frozen", "full", "funny", "fuzzy", "gentle",
    "giddy", "glad", "gloomy", "golden", "good", "graceful", "grand", "grateful", "gray", "great",
    "greedy", "green", "grim", "grumpy", "happy", "hard", "harsh", "hasty", "heavy", "helpful",
    "hidden", "hollow", "holy", "honest", "huge", "humble", "hungry", "idle", "innocent", "jolly",
    "joyful", "keen", "kind", "large", "late", "lazy", "lean", "light", "little", "lively", "local",
    "lonely", "long", "loose", "loud", "loyal", "lucky", "major", "mellow", "merry", "mighty",
    "mild", "modern", "modest", "muddy", "narrow", "nasty", "neat", "nervous", "noble", "noisy",
    "numb", "open", "ordinary", "outer", "pale", "patient", "peaceful", "plain", "pleasant",
    "polite", "poor", "precious", "pretty", "private", "proper", "proud", "public", "pure",
    "purple", "quick", "quiet", "rapid", "rare", "ready", "real", "rich", "rigid", "ripe", "robust",
    "rough", "round", "royal", "rude", "rusty", "sacred", "safe", "salty", "secret", "serious",
    "shallow", "sharp", "shiny", "short", "silent", "silly", "silver", "simple", "single", "sleepy",
    "slender", "slim", "slow", "small", "smart", "smooth", "sober", "soft", "solemn", "solid",
    "sour", "spare", "stale", "steady", "steep", "stern", "stiff", "still", "strange", "strict",
    "strong", "sturdy", "subtle", "sudden", "sunny", "superb", "sweet", "swift", "tall", "tame",
    "tender", "thick", "thin", "thirsty", "tidy", "tight", "tiny", "tired", "tough", "tranquil",
    "true", "upper", "useful", "usual", "vague", "vast", "violet", "vivid", "warm", "wary", "weak",
    "weary", "white", "whole", "wide", "wild", "wise", "witty", "wooden", "yellow", "young",
    "zealous",
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_lists_have_plain_words_and_each_once() {
        let ours = words(&[]);
        assert_eq!(ours.len(), NOUNS.len() + ADJECTIVES.len());
        assert!(ours.len() >= ENOUGH && ours.iter().all(|word| is_plain(word)));
        assert_eq!(ours.iter().collect::<HashSet<_>>().len(), ours.len());
    }

    #[test]
    fn all_pairs_differ() {
        let pairs: HashSet<String> = (0..PAIRS).map(pair).collect();
        assert_eq!(pairs.len(), PAIRS);
        assert_eq!(pair(PAIRS + 3), pair(3));
    }

    #[test]
    fn words_are_the_texts_own_if_there_are_enough() {
        let letters = |number: usize| char::from(b'a' + (number % 26) as u8);
        let word = |number: usize| format!("xy{}{}", letters(number / 26), letters(number));
        let text = |count| (0..count).map(word).collect::<Vec<_>>().join(" ");
        let many = [text(600), format!("({},) Paris a1b2c3 don't abc", word(0))];
        assert_eq!(words(&many).len(), 600);
        assert_eq!(words(&many)[..2], ["xyaa", "xyab"]);
        assert_eq!(words(&[text(499)])[0], NOUNS[0]);
    }
}
