use std::path::PathBuf;

use ureq::Agent;
use ureq::http::Uri;

use crate::blob::Blob;
use crate::cache::{RepoFolder, cached};
use crate::environment::{self, Environment};
use crate::name::{ModelName, stays_inside};
use crate::remote::{Listing, Remote, settings};
use crate::{HubError, plan};

const HUGGING_FACE: &str = "https://huggingface.co";

/// What to fetch.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// `OWNER/NAME`.
    pub name: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// Paths inside the repository. If there are none, everything that a model is read from.
    pub files: Vec<String>,
}

/// Told how far a file has come.
pub trait Progress {
    /// `done` of `size` bytes of `file` are on disk. The first call for a file says how much was there before, the last
    /// that all is. `done` falls back when a file has to be fetched from its start.
    fn at(&mut self, file: &str, done: u64, size: u64);

    /// Another process is fetching `file`, and this one waits for it.
    fn waiting(&mut self, file: &str) {
        let _ = file;
    }
}

/// Nobody looks.
impl Progress for () {
    fn at(&mut self, _file: &str, _done: u64, _size: u64) {}
}

/// A hub, and the cache that its files go to.
pub struct Hub {
    endpoint: String,
    cache: Option<PathBuf>,
    token: Option<String>,
    offline: bool,
    agent: Agent,
}

impl Hub {
    /// The Hugging Face hub, asked by nobody in particular: no environment variable is read.
    pub fn new(cache: PathBuf) -> Self {
        Self {
            endpoint: HUGGING_FACE.to_owned(),
            cache: Some(cache),
            token: None,
            offline: false,
            agent: settings().proxy(None).build().into(),
        }
    }

    /// As the environment has it, by the variables of Python's `huggingface_hub`: `HF_ENDPOINT`, `HF_TOKEN` or the file
    /// of `hf auth login`, `HF_HUB_OFFLINE`, those of [`default_cache`](crate::default_cache), and the usual ones of a
    /// proxy.
    ///
    /// # Errors
    /// [`HubError::Endpoint`] if `HF_ENDPOINT` is no address.
    pub fn from_env() -> Result<Self, HubError> {
        Self::from_environment(&environment::process())
    }

    fn from_environment<F: Fn(&str) -> Option<String>>(
        set: &Environment<F>,
    ) -> Result<Self, HubError> {
        let hub = Self {
            endpoint: HUGGING_FACE.to_owned(),
            cache: set.cache(),
            token: set.token(),
            offline: set.offline(),
            agent: settings().build().into(),
        };
        match set.endpoint() {
            Some(endpoint) => hub.with_endpoint(&endpoint),
            None => Ok(hub),
        }
    }

    /// Another cache.
    #[must_use]
    pub fn with_cache(self, cache: PathBuf) -> Self {
        Self { cache: Some(cache), ..self }
    }

    /// A mirror.
    ///
    /// # Errors
    /// [`HubError::Endpoint`] if it is no `http` address.
    pub fn with_endpoint(self, endpoint: &str) -> Result<Self, HubError> {
        let endpoint = endpoint.trim_end_matches('/');
        let uri: Option<Uri> = endpoint.parse().ok();
        let http =
            |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.query().is_none();
        if !uri.as_ref().is_some_and(http) {
            return Err(HubError::Endpoint { endpoint: endpoint.to_owned() });
        }
        Ok(Self { endpoint: endpoint.to_owned(), ..self })
    }

    /// Who asks: an access token, for gated and private models.
    #[must_use]
    pub fn with_token(self, token: String) -> Self {
        Self { token: Some(token), ..self }
    }

    /// Brings what is missing of a model into the cache and returns its folder there, as an absolute path.
    ///
    /// All files are of the commit that `revision` is at the beginning. The branch is noted in the cache when all of
    /// them have arrived, so that [`cached`](crate::cached) never sees half a model of ours.
    ///
    /// # Errors
    /// A [`HubError`] that says what to do. What has arrived is kept, and the next call goes on from there.
    pub fn fetch(&self, wanted: &Wanted, progress: &mut dyn Progress) -> Result<PathBuf, HubError> {
        let name = ModelName::new(&wanted.name)?;
        let repo = name.at(&wanted.revision)?;
        let cache = self.cache.as_ref().ok_or(HubError::NoCache)?;
        let cache = std::path::absolute(cache).map_err(HubError::file("find", cache))?;
        if self.offline {
            // As huggingface_hub: what is there is there.
            let whole = wanted.files.is_empty() && wanted.revision == "main";
            let folder = whole.then(|| cached(&wanted.name, &cache)).flatten();
            return folder.ok_or_else(|| HubError::Offline { name: wanted.name.clone() });
        }
        let folder = RepoFolder::new(&cache, repo.clone());
        let token = self.token.as_deref();
        let remote = Remote { agent: &self.agent, endpoint: &self.endpoint, token, repo };
        let listing = remote.listing()?;
        let fetching = Fetching { wanted, remote, folder, listing };
        if wanted.files.is_empty() {
            fetching.whole_model(progress)?;
            fetching.folder.refer(&fetching.listing.commit)?;
        } else {
            // A branch names a whole model, and goes on to name the one that it named.
            fetching.named_files(progress)?;
        }
        Ok(fetching.folder.snapshot(&fetching.listing.commit))
    }
}

struct Fetching<'a> {
    wanted: &'a Wanted,
    remote: Remote<'a>,
    folder: RepoFolder,
    listing: Listing,
}

impl Fetching<'_> {
    fn whole_model(&self, progress: &mut dyn Progress) -> Result<(), HubError> {
        let files = plan::whole_model(&self.listing.files).ok_or_else(|| HubError::NoWeights {
            name: self.wanted.name.clone(),
            files: self.listing.files.clone(),
        })?;
        for file in files {
            let path = self.bring(&file, progress)?;
            if plan::is_index(&file) {
                let shards = plan::shards(&path)?;
                self.all_listed(&shards)?;
                shards.iter().try_for_each(|shard| self.bring(shard, progress).map(drop))?;
            }
        }
        Ok(())
    }

    fn named_files(&self, progress: &mut dyn Progress) -> Result<(), HubError> {
        let files = &self.wanted.files;
        self.all_listed(files)?;
        files.iter().try_for_each(|file| self.bring(file, progress).map(drop))
    }

    /// Before hours are spent on the others.
    fn all_listed<'a>(&self, files: impl IntoIterator<Item = &'a String>) -> Result<(), HubError> {
        let there = |file: &&String| self.listing.files.contains(file) && stays_inside(file);
        match files.into_iter().find(|file| !there(file)) {
            None => Ok(()),
            Some(file) => Err(HubError::NoFile {
                name: self.wanted.name.clone(),
                revision: self.wanted.revision.clone(),
                file: file.clone(),
                files: alike(file, &self.listing.files),
            }),
        }
    }

    fn bring(&self, file: &str, progress: &mut dyn Progress) -> Result<PathBuf, HubError> {
        let commit = &self.listing.commit;
        let facts = self.remote.facts(commit, file)?;
        let blob = Blob { remote: &self.remote, folder: &self.folder, commit, file, facts };
        blob.bring(progress)?;
        self.folder.link(commit, file, &blob.facts.sum)
    }
}

/// The files with the same extension, or all of them if there is none.
fn alike(file: &str, files: &[String]) -> Vec<String> {
    let extension =
        |file: &str| file.rsplit_once('.').map(|(_, extension)| extension.to_lowercase());
    let same: Vec<_> = files.iter().filter(|f| extension(f) == extension(file)).cloned().collect();
    if same.is_empty() { files.to_vec() } else { same }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_an_http_address() {
        let hub = || Hub::new(PathBuf::from("cache"));
        assert_eq!(
            hub().with_endpoint("https://m.example/hf/").unwrap().endpoint,
            "https://m.example/hf"
        );
        for endpoint in ["", "m.example", "ftp://m.example", "http://", "http://a b", "http://a?b"]
        {
            let said = hub().with_endpoint(endpoint).err().unwrap().to_string();
            assert!(said.contains("https://"), "{said}");
        }
    }

    #[test]
    fn the_environment_forbids_the_network() {
        let set = |name: &str| match name {
            "HF_HUB_OFFLINE" => Some("1".to_owned()),
            "HF_HUB_CACHE" => Some("cache".to_owned()),
            _ => None,
        };
        let hub = Hub::from_environment(&Environment(set)).unwrap();
        let wanted = Wanted { name: "a/b".into(), revision: "main".into(), files: vec![] };
        let said = hub.fetch(&wanted, &mut ()).unwrap_err().to_string();
        assert!(said.contains("HF_HUB_OFFLINE") && said.contains("`a/b`"), "{said}");
    }
}
