use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use longlora_gguf::{GgufFile, is_gguf};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use self::source::readable;
use crate::chat_json::to_json;
use crate::gguf_tokenizer::tokenizer_config;
use crate::strftime::strftime;
use crate::tokenizer::read_if_present;
use crate::tokenizer_config::{SPECIAL_TOKENS, TokenizerConfig};
use crate::{DataError, Tokenizer};

/// Steps of the template engine that any conversation may take: a second of one core at most.
const BASE_FUEL: u64 = 1_000_000;

/// Steps for each message; the templates of published models take some hundreds.
const FUEL_PER_MESSAGE: u64 = 2000;

/// The engine does not count the steps of writing out or comparing a list that holds a list twice,
/// which holds a list twice, and so on; and it looks for constants in an expression anew for each
/// part of it that nests deeper. Published templates take milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// Each step nests a list at most once, and a nested list is written and dropped by recursion. Only
/// what is used of a stack takes memory.
const STACK_BYTES_PER_FUEL: u64 = 512;

/// Published templates have some ten thousand bytes.
const LONGEST_TEMPLATE: usize = 1 << 18;

/// Each byte of a source may nest an expression one deeper, as those of `{{ ----a }}` do, and the
/// engine reads nested expressions by recursion.
const STACK_BYTES_PER_SOURCE_BYTE: usize = 2048;

/// What reading takes apart from that.
const SMALLEST_STACK_BYTES: usize = 1 << 20;

/// Macros within macros. Published templates have a handful.
const MAX_RECURSION: usize = 100;

/// Those who speak, by the names that most templates know them by.
pub(crate) const SYSTEM: &str = "system";
pub(crate) const USER: &str = "user";
pub(crate) const ASSISTANT: &str = "assistant";

/// 26 July 2024, the day that LLaMA 3.1's template has where it is told none; in seconds.
const ANY_DAY: Duration = Duration::from_secs(1_721_995_200);

/// What somebody said in a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who: `system`, `user` or `assistant`, for most models.
    pub role: String,
    /// What.
    pub content: String,
}

impl Message {
    /// A message of a role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// Writes a conversation in the form a model was trained on, as its `chat_template` says.
///
/// Rendered as transformers 4.57 does, with the same variables and functions, and with Jinja's filters and Python's methods
/// as far as published templates use them; only `strftime_now` tells the time of UTC. Templates come from strangers: one can neither read a file
/// nor the environment, and one that does not come to an end is an error.
///
/// The rendered text has its special tokens written out: encode it with
/// [`encode_rendered`](Tokenizer::encode_rendered), which adds none.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    path: PathBuf,
    environment: Environment<'static>,
    /// The special tokens by their names in `tokenizer_config.json`: `bos_token` and the like.
    tokens: Vec<(String, String)>,
    /// What else it is told.
    arguments: Map<String, Json>,
}

const TEMPLATE: &str = "chat_template";

impl ChatTemplate {
    /// Reads the template of a model's folder: `chat_template.jinja`, else the `chat_template` of
    /// `tokenizer_config.json`, where it is one text or a list of which `default` is taken. `None`
    /// if the folder has none, as that of a base model. Of a `.gguf` file, that of
    /// [`from_gguf`](Self::from_gguf).
    ///
    /// # Errors
    /// A configuration of another format, a list without a `default`, and a template that is not
    /// in Jinja's language.
    pub fn read(model: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>, DataError> {
        if is_gguf(model) {
            return Self::from_gguf(&GgufFile::open(model)?, tokenizer);
        }
        let folder = match model.is_dir() {
            true => model,
            false => model.parent().unwrap_or(Path::new("")),
        };
        let config = TokenizerConfig::beside(&folder.join("tokenizer.json"))?.into_keys();
        let tokens = special_tokens(&config, tokenizer);
        let source = template_source(folder, &config)?;
        source.map(|(path, source)| Self::new(path, &source, tokens)).transpose()
    }

    /// Reads the template of a GGUF file, `tokenizer.chat_template`.
    ///
    /// # Errors
    /// Those of [`read`](Self::read) and of [`Tokenizer::from_gguf`].
    pub fn from_gguf(gguf: &GgufFile, tokenizer: &Tokenizer) -> Result<Option<Self>, DataError> {
        let config = tokenizer_config(gguf.metadata(), gguf.path())?;
        let tokens = special_tokens(&config, tokenizer);
        let source = config["chat_template"].as_str();
        source.map(|source| Self::new(gguf.path().into(), source, tokens)).transpose()
    }

    pub(crate) fn new(
        path: PathBuf,
        source: &str,
        tokens: Vec<(String, String)>,
    ) -> Result<Self, DataError> {
        let bytes = source.len();
        if bytes > LONGEST_TEMPLATE {
            return Err(DataError::LongChatTemplate { path, bytes, most: LONGEST_TEMPLATE });
        }
        let source = readable(source);
        let stack_bytes = SMALLEST_STACK_BYTES + source.len() * STACK_BYTES_PER_SOURCE_BYTE;
        let read = in_time(&path, stack_bytes, DEADLINE, move || {
            let mut environment = environment();
            environment.add_template_owned(TEMPLATE, source).map(|()| environment)
        });
        match read? {
            Ok(environment) => Ok(Self { path, environment, tokens, arguments: Map::new() }),
            Err(source) => Err(DataError::BadChatTemplate { path, source }),
        }
    }

    /// Tells the template more than the conversation: `enable_thinking` for Qwen3, for one; transformers'
    /// `chat_template_kwargs`.
    pub fn with_arguments(self, arguments: Map<String, Json>) -> Self {
        Self { arguments, ..self }
    }

    /// The conversation up to the last message's last word, for the model to go on with it: transformers'
    /// `continue_final_message`. `None`, if the template does not show that message as it is.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn render_unfinished(&self, messages: &[Message]) -> Result<Option<String>, DataError> {
        let mut rendered = self.render(messages, false)?;
        let last = messages.last().map_or("", |message| message.content.trim());
        let Some(start) = rendered.rfind(last) else { return Ok(None) };
        rendered.truncate(start + last.len());
        Ok(Some(rendered))
    }

    /// The conversation as the model's text, up to where its next answer begins if
    /// `add_generation_prompt` is set.
    ///
    /// # Errors
    /// Messages that the template refuses, in its own words, and a template that cannot be
    /// rendered or does not come to an end.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, DataError> {
        self.render_by(messages, add_generation_prompt, SystemTime::now(), DEADLINE)
    }

    /// The same on a day that is always the same: what is learned from does not change overnight.
    pub(crate) fn render_undated(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, DataError> {
        self.render_by(messages, add_generation_prompt, UNIX_EPOCH + ANY_DAY, DEADLINE)
    }

    fn render_by(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
        now: SystemTime,
        deadline: Duration,
    ) -> Result<String, DataError> {
        let fuel = fuel(messages);
        let environment = self.environment_at(now, fuel);
        let messages = messages.to_vec();
        let stack_bytes = usize::try_from(fuel * STACK_BYTES_PER_FUEL).unwrap_or(usize::MAX);
        let rendered = in_time(&self.path, stack_bytes, deadline, move || {
            render(&environment, &messages, add_generation_prompt)
        });
        rendered?.map_err(|error| self.why(error))
    }

    fn environment_at(&self, now: SystemTime, fuel: u64) -> Environment<'static> {
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel));
        environment.add_function("strftime_now", move |format: &str| {
            let unknown = || failure(format!("strftime_now does not know the format {format:?}"));
            strftime(format, now).ok_or_else(unknown)
        });
        for (name, token) in &self.tokens {
            environment.add_global(name.clone(), token.as_str());
        }
        for (name, value) in &self.arguments {
            environment.add_global(name.clone(), Value::from(Serde(value)));
        }
        environment
    }

    fn why(&self, error: minijinja::Error) -> DataError {
        let path = self.path.clone();
        if let Some(Refusal(message)) = refusal(&error) {
            return DataError::ChatRefused { path, message: message.clone() };
        }
        match error.kind() {
            ErrorKind::OutOfFuel => DataError::EndlessChatTemplate { path },
            _ => DataError::BadChatTemplate { path, source: error },
        }
    }
}

/// Works in a thread of its own, to be left behind if it is late: nothing stops it from outside.
fn in_time<T: Send + 'static>(
    path: &Path,
    stack_bytes: usize,
    deadline: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, DataError> {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::Builder::new()
        .name("chat template".into())
        .stack_size(stack_bytes)
        .spawn(move || sender.send(work()).ok()); // nobody listens after the deadline
    thread.map_err(|source| DataError::NoThread { path: path.into(), source })?;
    receiver
        .recv_timeout(deadline)
        .map_err(|_| DataError::EndlessChatTemplate { path: path.into() })
}

fn render(
    environment: &Environment,
    messages: &[Message],
    add_generation_prompt: bool,
) -> Result<String, minijinja::Error> {
    let as_value = |Message { role, content }: &Message| context! { role, content };
    let messages: Vec<Value> = messages.iter().map(as_value).collect();
    let context = context! {
        messages,
        add_generation_prompt,
        tools => Value::from(()),
        documents => Value::from(()),
    };
    environment.get_template(TEMPLATE)?.render(context)
}

/// What transformers gives a template, but for the variables.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    environment.set_syntax(syntax.expect("the delimiters are Jinja's own"));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", to_json);
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_function("raise_exception", |message: Value| -> Result<Value, _> {
        Err(failure("raise_exception").with_source(Refusal(message.to_string())))
    });
    environment.remove_global("debug"); // not Jinja's
    environment
}

/// Work that is linear in the conversation is let through, whatever its length.
fn fuel(messages: &[Message]) -> u64 {
    let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
    BASE_FUEL + FUEL_PER_MESSAGE * messages.len() as u64 + bytes as u64
}

/// What a template says with `raise_exception`.
#[derive(Debug)]
struct Refusal(String);

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Error for Refusal {}

fn refusal(error: &minijinja::Error) -> Option<&Refusal> {
    let first: &(dyn Error + 'static) = error;
    std::iter::successors(Some(first), |error| (*error).source())
        .find_map(|error| error.downcast_ref())
}

fn failure(reason: impl Into<std::borrow::Cow<'static, str>>) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, reason)
}

/// The template of a model's folder and the file that it is in.
pub(crate) fn template_source(
    folder: &Path,
    config: &Json,
) -> Result<Option<(PathBuf, String)>, DataError> {
    let path = folder.join("chat_template.jinja");
    if let Some(content) = read_if_present(&path)? {
        return match String::from_utf8(content) {
            Ok(source) => Ok(Some((path, source))),
            Err(error) => {
                let offset = error.utf8_error().valid_up_to();
                Err(DataError::NotUtf8 { path, offset })
            }
        };
    }
    let path = folder.join("tokenizer_config.json");
    let source = source_in_config(&path, config)?.map(str::to_string);
    Ok(source.map(|source| (path, source)))
}

fn source_in_config<'a>(path: &Path, config: &'a Json) -> Result<Option<&'a str>, DataError> {
    let no_default = || DataError::NoDefaultChatTemplate { path: path.into() };
    match &config["chat_template"] {
        Json::Null => Ok(None),
        Json::String(source) => Ok(Some(source)),
        Json::Array(named) => {
            let default = named.iter().find(|template| template["name"] == "default");
            let source = default.and_then(|template| template["template"].as_str());
            source.map(Some).ok_or_else(no_default)
        }
        _ => Err(no_default()),
    }
}

/// All that the configuration names, which transformers hands to templates, and those that the
/// tokenizer knows from elsewhere.
fn special_tokens(config: &Json, tokenizer: &Tokenizer) -> Vec<(String, String)> {
    let configured = |name: &str| {
        let token = &config[name];
        Some(token.as_str().or_else(|| token["content"].as_str())?.to_string())
    };
    let special = tokenizer.special_tokens();
    let known = |name: &str| {
        let token = match name {
            "bos_token" => &special.bos,
            "eos_token" => &special.eos,
            _ => &None,
        };
        token.as_ref().map(|token| token.content.clone())
    };
    let named = |name: &str| Some((name.into(), configured(name).or_else(|| known(name))?));
    SPECIAL_TOKENS.into_iter().filter_map(named).collect()
}

mod source;
#[cfg(test)]
mod tests;
