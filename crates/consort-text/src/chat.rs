//! Chat templates: the Jinja text with which a model's makers lay out a conversation.
//!
//! `chat_template` of `tokenizer_config.json` (one text, or several by name: the one called `default`), or the file
//! `chat_template.jinja`, which wins as it does in transformers. Rendered as transformers renders it: blocks trimmed,
//! `bos_token` and the like defined, `raise_exception` and `strftime_now` there, methods of Python's strings and lists
//! understood.

use std::{collections::BTreeMap, fs, path::Path};

use minijinja::{Environment, ErrorKind, Value, context, syntax::SyntaxConfig};

use crate::{
    Embedded, Error,
    load::{invalid, read_json_object},
};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl ChatMessage {
    /// A message of `role`.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A model's chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    /// For messages.
    file: String,
    template: String,
    /// `bos_token`, `eos_token` …, as the template may name them.
    special: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// The template of a model directory; `None` when it has none.
    ///
    /// # Errors
    /// One line that names the file: not readable, not JSON, or a template of the wrong kind.
    pub fn from_directory(directory: &Path) -> Result<Option<Self>, Error> {
        let config_path = directory.join("tokenizer_config.json");
        let config = read_json_object(&config_path)?.unwrap_or_default();
        let own_file = directory.join("chat_template.jinja");
        let (path, template) = if own_file.is_file() {
            let text = fs::read_to_string(&own_file).map_err(|error| invalid(&own_file, error.to_string()))?;
            (own_file, text)
        } else {
            let text = match config.get("chat_template") {
                None | Some(serde_json::Value::Null) => return Ok(None),
                Some(serde_json::Value::String(text)) => text.clone(),
                Some(serde_json::Value::Array(all)) => {
                    let named =
                        |template: &&serde_json::Value| template.get("name").is_some_and(|name| name == "default");
                    match all.iter().find(named).and_then(|template| template.get("template")) {
                        Some(serde_json::Value::String(text)) => text.clone(),
                        _ => return Err(invalid(&config_path, "chat_template: no template is called 'default'")),
                    }
                }
                Some(_) => return Err(invalid(&config_path, "chat_template: expected a text or a list of templates")),
            };
            (config_path, text)
        };
        // A token is a text, or an object with its content.
        let special = config
            .iter()
            .filter(|(key, _)| key.ends_with("_token"))
            .filter_map(|(key, value)| {
                let text = value.as_str().or_else(|| value.get("content").and_then(serde_json::Value::as_str))?;
                Some((key.clone(), text.to_owned()))
            })
            .collect();
        Ok(Some(Self { file: path.display().to_string(), template, special }))
    }

    /// The template that a GGUF file carries; `None` when it has none. Messages call the file `name`.
    pub fn from_embedded(embedded: &Embedded, name: &str) -> Option<Self> {
        let template = embedded.chat_template.clone()?;
        let token = |id: Option<u32>| embedded.tokens.get(usize::try_from(id?).ok()?).cloned();
        let special = [
            ("bos_token", embedded.bos),
            ("eos_token", embedded.eos),
            ("unk_token", embedded.unk),
            ("sep_token", embedded.sep),
            ("pad_token", embedded.pad),
            ("cls_token", embedded.cls),
            ("mask_token", embedded.mask),
        ];
        let special = special.into_iter().filter_map(|(name, id)| Some((name.to_owned(), token(id)?))).collect();
        Some(Self { file: name.to_owned(), template, special })
    }

    /// The template itself.
    pub(crate) fn text(&self) -> &str {
        &self.template
    }

    /// The conversation as one prompt, ending where the assistant's next message begins. Special tokens are written out:
    /// encode it without adding any.
    ///
    /// # Errors
    /// One line that names the file: a template that is no Jinja, or that refuses these messages.
    pub fn render(&self, messages: &[ChatMessage]) -> Result<String, Error> {
        let wrong = |error: minijinja::Error| {
            let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
            let line = error.line().map(|line| format!(" (line {line})")).unwrap_or_default();
            invalid(Path::new(&self.file), format!("chat template{line}: {what}"))
        };
        let mut environment = Environment::new();
        environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(wrong)?);
        // A template is a program: one that does not end must not hang us.
        environment.set_fuel(Some(10_000_000));
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |what: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, what))
        });
        environment.add_function("strftime_now", strftime_now);
        environment.add_template("chat", &self.template).map_err(wrong)?;
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| context! { role => message.role.as_str(), content => message.content.as_str() })
            .collect();
        let special = Value::from_pairs(self.special.iter().map(|(name, token)| (name.as_str(), token.as_str())));
        let values = context! { messages => messages, add_generation_prompt => true, ..special };
        environment.get_template("chat").and_then(|template| template.render(values)).map_err(wrong)
    }
}

/// Today in UTC by the date fields that templates use.
fn strftime_now(format: String) -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let [year, month, day] = date(seconds / 86_400);
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let name = MONTHS[(month - 1) as usize];
    format
        .replace("%Y", &year.to_string())
        .replace("%m", &format!("{month:02}"))
        .replace("%d", &format!("{day:02}"))
        .replace("%B", name)
        .replace("%b", &name[..3])
}

/// Year, month and day of a day counted from 1970-01-01 (Gregorian; eras of 400 years of 146,097 days from 1 March).
fn date(days: u64) -> [u64; 3] {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    [400 * era + year_of_era + u64::from(month <= 2), month, day]
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}\n{% if message['role'] not in ['user', \
        'system', 'assistant'] %}{{ raise_exception('unknown role ' + message.role) }}{% endif %}\n\
        <|{{ message.role }}|>{{ message.content.strip() }}<|end|>\n{% endfor %}\n\
        {% if add_generation_prompt %}<|assistant|>{% endif %}";

    fn template(config: serde_json::Value) -> Result<Option<ChatTemplate>, Error> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        ChatTemplate::from_directory(folder.path())
    }

    #[test]
    fn a_conversation_becomes_a_prompt() {
        let config = serde_json::json!({ "bos_token": { "content": "<s>" }, "chat_template": TEMPLATE });
        let chat = template(config).unwrap().unwrap();
        let messages = [ChatMessage::new("system", "Be kind."), ChatMessage::new("user", " hello ")];
        // As transformers' apply_chat_template(add_generation_prompt=True) gives it.
        assert_eq!(
            chat.render(&messages).unwrap(),
            "<s><|system|>Be kind.<|end|>\n<|user|>hello<|end|>\n<|assistant|>"
        );
        let error = chat.render(&[ChatMessage::new("ghost", "boo")]).unwrap_err().to_string();
        assert!(error.contains("unknown role ghost") && !error.contains('\n'), "{error}");
    }

    #[test]
    fn templates_that_cannot_be_are_refused() {
        assert!(template(serde_json::json!({})).unwrap().is_none());
        assert!(template(serde_json::json!({ "chat_template": 7 })).is_err());
        assert!(template(serde_json::json!({ "chat_template": [{ "name": "tool", "template": "" }] })).is_err());
        let broken = template(serde_json::json!({ "chat_template": "{% for %}" })).unwrap().unwrap();
        assert!(broken.render(&[]).is_err());
        let endless = "{% for i in range(100000) %}{% for j in range(100000) %}x{% endfor %}{% endfor %}";
        let endless = template(serde_json::json!({ "chat_template": endless })).unwrap().unwrap();
        assert!(endless.render(&[]).is_err());
    }

    #[test]
    fn days_have_dates() {
        assert_eq!(date(0), [1970, 1, 1]);
        assert_eq!(date(11_016), [2000, 2, 29]);
        assert_eq!(date(20_454), [2026, 1, 1]);
    }
}
