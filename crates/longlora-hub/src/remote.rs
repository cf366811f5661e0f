use std::io::Read;
use std::time::Duration;

use hf_hub::Repo;
use hf_hub::api::RepoInfo;
use ureq::config::{ConfigBuilder, RedirectAuthHeaders};
use ureq::http::{HeaderMap, Response, StatusCode, Uri};
use ureq::typestate::{AgentScope, WithoutBody};
use ureq::{Agent, Body, RequestBuilder};

use crate::HubError;
use crate::cache::is_commit;
use crate::checksum::Checksum;

/// How long a host may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// How long the list of a repository's files may be.
const LISTING_BYTES: u64 = 64 << 20;
/// How often a file may be said to be elsewhere on the hub.
const MOVES: usize = 5;

/// HTTP as this crate speaks it. `accept-encoding` matters: a compressed answer has neither the size nor the checksum of
/// the file.
pub(crate) fn settings() -> ConfigBuilder<AgentScope> {
    Agent::config_builder()
        .user_agent(concat!("longlora/", env!("CARGO_PKG_VERSION")))
        .accept_encoding("identity")
        .http_status_as_error(false)
        .redirect_auth_headers(RedirectAuthHeaders::SameHost)
        .timeout_resolve(Some(SILENCE))
        .timeout_connect(Some(SILENCE))
        .timeout_recv_response(Some(SILENCE))
        .timeout_per_read(Some(SILENCE))
}

/// One model on the hub.
pub(crate) struct Remote<'a> {
    pub(crate) agent: &'a Agent,
    pub(crate) endpoint: &'a str,
    pub(crate) token: Option<&'a str>,
    pub(crate) repo: Repo,
}

/// What a repository holds.
pub(crate) struct Listing {
    /// What the revision is now. Everything else is asked of this commit, so that all files belong together.
    pub(crate) commit: String,
    pub(crate) files: Vec<String>,
}

/// What the hub says of a file before it sends it.
pub(crate) struct Facts {
    pub(crate) sum: Checksum,
    pub(crate) size: u64,
}

impl Remote<'_> {
    pub(crate) fn name(&self) -> String {
        self.repo.url()
    }

    pub(crate) fn listing(&self) -> Result<Listing, HubError> {
        let url = format!("{}/api/{}", self.endpoint, self.repo.api_url());
        let mut response = self.call(self.agent.get(&url), &url)?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(&url, &response, None));
        }
        let body = response.body_mut().with_config().limit(LISTING_BYTES).read_to_vec();
        let body = body.map_err(|error| self.failure(&url, error))?;
        let info: RepoInfo = serde_json::from_slice(&body)
            .map_err(|error| odd(&url, format!("no list of files, {error}")))?;
        if !is_commit(&info.sha) {
            return Err(odd(&url, format!("`{}` is no commit", info.sha)));
        }
        let files = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        Ok(Listing { commit: info.sha, files })
    }

    /// Size and checksum. Large files are on another host, which has tags of its own, so the hub's redirection to it is
    /// read and not followed.
    pub(crate) fn facts(&self, commit: &str, file: &str) -> Result<Facts, HubError> {
        let mut url = self.url(commit, file);
        for _ in 0..MOVES {
            let request = self.agent.head(&url).config().max_redirects(0).build();
            let response = self.call(request, &url)?;
            let (status, headers) = (response.status(), response.headers());
            match header(headers, "location") {
                Some(path) if status.is_redirection() && path.starts_with('/') => {
                    url = format!("{}{path}", origin(&url));
                }
                _ if status.is_redirection() || status == StatusCode::OK => {
                    return facts(headers, status).map_err(|reason| odd(&url, reason));
                }
                _ => return Err(self.refusal(&url, &response, Some(file))),
            }
        }
        Err(odd(&url, format!("`{file}` was moved more than {MOVES} times")))
    }

    /// The content from byte `from` on, if the server can; from 0 otherwise. The second says which.
    pub(crate) fn content(
        &self,
        commit: &str,
        file: &str,
        from: u64,
    ) -> Result<(Box<dyn Read>, u64), HubError> {
        let url = self.url(commit, file);
        let mut request = self.agent.get(&url);
        if from > 0 {
            request = request.header("Range", format!("bytes={from}-"));
        }
        let response = self.call(request, &url)?;
        let status = response.status();
        let start = match status {
            StatusCode::OK => Some(0),
            StatusCode::PARTIAL_CONTENT => range_start(response.headers()),
            StatusCode::RANGE_NOT_SATISFIABLE => None,
            _ => return Err(self.refusal(&url, &response, Some(file))),
        };
        match start {
            Some(start) if start == 0 || start == from => {
                Ok((Box::new(response.into_body().into_reader()), start))
            }
            _ if from > 0 => self.content(commit, file, 0),
            _ => Err(odd(&url, format!("status `{}` to a plain request", status.as_u16()))),
        }
    }

    fn url(&self, commit: &str, file: &str) -> String {
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, self.name(), escaped(file))
    }

    fn call(
        &self,
        request: RequestBuilder<WithoutBody>,
        url: &str,
    ) -> Result<Response<Body>, HubError> {
        let request = match self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        };
        request.call().map_err(|error| self.failure(url, error))
    }

    /// No answer, or none that is HTTP.
    fn failure(&self, url: &str, error: ureq::Error) -> HubError {
        use ureq::Error::{
            BadUri, BodyExceedsLimit, Http, Io, LargeResponseHeader, Protocol, RedirectFailed,
            TooManyRedirects,
        };
        let reason = match error {
            Http(_)
            | BadUri(_)
            | Protocol(_)
            | TooManyRedirects
            | RedirectFailed
            | LargeResponseHeader(..)
            | BodyExceedsLimit(_) => return odd(url, error.to_string()),
            Io(error) => error.to_string(),
            error => error.to_string(),
        };
        HubError::Unreachable { endpoint: self.endpoint.to_owned(), reason }
    }

    /// What a status other than success means.
    fn refusal(&self, url: &str, response: &Response<Body>, file: Option<&str>) -> HubError {
        let name = self.name();
        let status = response.status().as_u16();
        let code = header(response.headers(), "x-error-code").unwrap_or_default();
        match status {
            401 | 403 => HubError::Closed {
                page: format!("{}/{name}", self.endpoint),
                name,
                status,
                token: self.token.is_some(),
            },
            404 if code == "RevisionNotFound" => {
                HubError::NoRevision { name, revision: self.repo.revision().to_owned() }
            }
            404 => match file {
                None => HubError::NoModel { name, endpoint: self.endpoint.to_owned() },
                Some(file) => odd(url, format!("it lists `{file}` and does not have it (404)")),
            },
            429 | 500.. => HubError::Status { url: url.to_owned(), status },
            _ => odd(url, format!("status `{status}`")),
        }
    }
}

fn odd(url: &str, reason: String) -> HubError {
    HubError::Answer { url: url.to_owned(), reason }
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The `x-linked-` headers are those of a large file; without them the answer is about the file itself.
fn facts(headers: &HeaderMap, status: StatusCode) -> Result<Facts, String> {
    let direct = |name| if status == StatusCode::OK { header(headers, name) } else { None };
    let etag = header(headers, "x-linked-etag").or_else(|| direct("etag"));
    let etag = etag.ok_or("it gives no checksum (etag)")?;
    let sum = Checksum::from_etag(etag)
        .ok_or_else(|| format!("`{etag}` is neither a SHA-256 nor a SHA-1 (etag)"))?;
    let size = header(headers, "x-linked-size").or_else(|| direct("content-length"));
    let size =
        size.and_then(|size| size.parse().ok()).ok_or("it gives no size (content-length)")?;
    Ok(Facts { sum, size })
}

/// Of `bytes 100-199/200`, the 100.
fn range_start(headers: &HeaderMap) -> Option<u64> {
    let range = header(headers, "content-range")?.strip_prefix("bytes ")?;
    range.split('-').next()?.parse().ok()
}

/// Scheme and host of an address.
fn origin(url: &str) -> String {
    let uri: Uri = url.parse().unwrap_or_default();
    let scheme = uri.scheme_str().unwrap_or("https");
    format!("{scheme}://{}", uri.authority().map_or("", |authority| authority.as_str()))
}

/// A path inside a repository as a part of an address.
fn escaped(file: &str) -> String {
    let mut url = String::new();
    for byte in file.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                url.push(char::from(byte));
            }
            _ => url.push_str(&format!("%{byte:02X}")),
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_spaces_and_accents_become_addresses() {
        assert_eq!(escaped("a/é b#1?.json"), "a/%C3%A9%20b%231%3F.json");
        assert_eq!(origin("http://127.0.0.1:80/x/y?z"), "http://127.0.0.1:80");
    }
}
