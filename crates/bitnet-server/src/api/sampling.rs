//! The fields of sampling and of grammars, which chats and completions share.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use bitnet_inference::{Grammar, SamplerOptions, StopSequences};
use serde::Deserialize;
use serde_json::{Value, json};

use super::fields::{Fields, Object, whole};
use crate::error::ApiError;
use crate::model::ModelFacts;
use crate::options::RequestDefaults;

/// Maximum number of stop sequences.
const MAX_STOPS: usize = 16;

/// How a text is generated.
#[derive(Clone, Debug)]
pub struct Sampling {
    pub options: SamplerOptions,
    /// Whether the seed was drawn: the same request has another one the next time.
    pub is_drawn: bool,
    pub bias: Vec<(u32, f32)>,
    pub stops: StopSequences,
    pub grammar: Option<Grammar>,
}

/// One text or several.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// Takes the fields of sampling.
pub fn take(
    fields: &mut Fields,
    model: &ModelFacts,
    defaults: RequestDefaults,
) -> Result<Sampling, ApiError> {
    let sampling = options(fields, defaults)?;
    let mut bias = logit_bias(fields, model.vocab_size)?;
    let ignore_eos = fields.take("ignore_eos", "true or false")?;
    if ignore_eos == Some(true) {
        let ends = model.tokenizer.eog();
        let ends = ends.filter(|id| (*id as usize) < model.vocab_size);
        bias.extend(ends.map(|id| (id, f32::MIN)));
    }
    Ok(Sampling {
        bias,
        stops: stops(fields, "stop")?,
        grammar: grammar(fields)?,
        ..sampling
    })
}

/// Takes the parameters of the sampler, and the seed. There is no bias, stop sequence or
/// grammar yet.
pub fn options(fields: &mut Fields, defaults: RequestDefaults) -> Result<Sampling, ApiError> {
    let default = defaults.sampling;
    let seed = seed(fields, defaults.seed)?;
    let options = SamplerOptions {
        temperature: number(fields, &["temperature"], 0.0, 2.0)?.unwrap_or(default.temperature),
        top_p: number(fields, &["top_p"], 0.0, 1.0)?.unwrap_or(default.top_p),
        min_p: number(fields, &["min_p"], 0.0, 1.0)?.unwrap_or(default.min_p),
        top_k: top_k(fields)?.unwrap_or(default.top_k),
        repeat_penalty: number(
            fields,
            &["repeat_penalty", "repetition_penalty"],
            f32::MIN_POSITIVE,
            f32::MAX,
        )?
        .unwrap_or(default.repeat_penalty),
        presence_penalty: number(fields, &["presence_penalty"], -2.0, 2.0)?
            .unwrap_or(default.presence_penalty),
        frequency_penalty: number(fields, &["frequency_penalty"], -2.0, 2.0)?
            .unwrap_or(default.frequency_penalty),
        penalty_window: window(fields)?.unwrap_or(default.penalty_window),
        seed: seed.unwrap_or_else(|| RandomState::new().hash_one(0) >> 32),
    };
    Ok(Sampling {
        options,
        is_drawn: seed.is_none(),
        bias: Vec::new(),
        stops: StopSequences::default(),
        grammar: None,
    })
}

/// Takes a number within a range.
fn number(
    fields: &mut Fields,
    names: &[&'static str],
    least: f32,
    most: f32,
) -> Result<Option<f32>, ApiError> {
    let expected = match (least, most) {
        (f32::MIN_POSITIVE, _) => "a number above 0".to_owned(),
        _ => format!("a number from {least} to {most}"),
    };
    let mut found = None;
    for &name in names {
        match fields.take::<f64>(name, &expected)? {
            // Before it is rounded: what is above 2 shall not become 2.
            Some(value) if !(f64::from(least)..=f64::from(most)).contains(&value) => {
                let message = format!("{name} is {value}, expected {expected}");
                return Err(ApiError::field(name, message));
            }
            Some(_) if found.is_some() => fields.ignore(name),
            Some(value) => found = Some(value as f32),
            None => {}
        }
    }
    Ok(found)
}

/// Takes `top_k`; 0 and -1 keep all.
fn top_k(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let expected = "a number of tokens, or -1 for all";
    match fields.take::<i64>("top_k", expected)? {
        Some(-1) => Ok(Some(0)),
        Some(k) => match usize::try_from(k) {
            Ok(k) => Ok(Some(k)),
            Err(_) => Err(ApiError::field(
                "top_k",
                format!("top_k is {k}, expected {expected}"),
            )),
        },
        None => Ok(None),
    }
}

/// Takes `repeat_last_n`; -1 means all.
fn window(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let expected = "a number of tokens, or -1 for all";
    match fields.take::<i64>("repeat_last_n", expected)? {
        Some(-1) => Ok(Some(usize::MAX)),
        Some(n) => match usize::try_from(n) {
            Ok(n) => Ok(Some(n)),
            Err(_) => Err(ApiError::field(
                "repeat_last_n",
                format!("repeat_last_n is {n}, expected {expected}"),
            )),
        },
        None => Ok(None),
    }
}

/// Takes `seed`, or the default; `None` if one is to be drawn.
fn seed(fields: &mut Fields, default: Option<u64>) -> Result<Option<u64>, ApiError> {
    let expected = "a whole number of 64 bits";
    let seed = fields.take::<Value>("seed", expected)?;
    match seed.map(whole) {
        None => Ok(default),
        // -1 means any, as in other servers of local models.
        Some(seed) if seed == json!(-1) => Ok(None),
        Some(seed) => (seed.as_u64())
            .or_else(|| seed.as_i64().map(i64::cast_unsigned))
            .map(Some)
            .ok_or_else(|| ApiError::field("seed", format!("seed is {seed}, expected {expected}"))),
    }
}

/// Takes the stop sequences from the field of this name.
pub fn stops(fields: &mut Fields, name: &str) -> Result<StopSequences, ApiError> {
    let stops = match fields.take(name, "a string or a list of strings")? {
        None => Vec::new(),
        Some(OneOrMany::One(stop)) => vec![stop],
        Some(OneOrMany::Many(stops)) => stops,
    };
    if stops.len() > MAX_STOPS {
        let message = format!(
            "{name} has {} texts, expected at most {MAX_STOPS}",
            stops.len()
        );
        return Err(ApiError::field(name, message));
    }
    StopSequences::new(stops).map_err(|error| ApiError::field(name, error.to_string()))
}

fn logit_bias(fields: &mut Fields, vocab_size: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    const NAME: &str = "logit_bias";
    let expected = "an object of token ids with numbers from -100 to 100";
    let Some(biases) = fields.take::<BTreeMap<String, f64>>(NAME, expected)? else {
        return Ok(Vec::new());
    };
    let checked = biases.into_iter().map(|(id, bias)| {
        let number: Option<u32> = id.parse().ok();
        match number.filter(|id| (*id as usize) < vocab_size) {
            Some(number) if (-100.0..=100.0).contains(&bias) => Ok((number, bias as f32)),
            Some(_) => Err(format!("{NAME} of {id} is {bias}, expected -100 to 100")),
            None => Err(format!(
                "{NAME} has the key {id:?}, expected a token id below {vocab_size}"
            )),
        }
    });
    let checked: Result<Vec<_>, String> = checked.collect();
    checked.map_err(|message| ApiError::field(NAME, message))
}

/// What a response shall look like.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum ResponseFormat {
    Text {},
    JsonObject {
        /// As other servers of local models take it.
        schema: Option<Value>,
    },
    JsonSchema {
        json_schema: Object<NamedSchema>,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedSchema {
    /// Any schema that is not given allows any object.
    schema: Option<Value>,
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(rename = "description")]
    _description: Option<String>,
    /// A schema is always followed to the letter.
    #[serde(rename = "strict")]
    _strict: Option<bool>,
}

/// Takes the fields that limit a text, of which at most one may be there.
pub fn grammar(fields: &mut Fields) -> Result<Option<Grammar>, ApiError> {
    let mut found: Vec<(&'static str, Grammar)> = Vec::new();
    let expected = "{\"type\": \"text\"}, {\"type\": \"json_object\"} or {\"type\": \
                    \"json_schema\", \"json_schema\": {\"schema\": …}}";
    match fields.take("response_format", expected)? {
        None | Some(Object(ResponseFormat::Text {})) => {}
        Some(Object(ResponseFormat::JsonObject { schema })) => {
            let schema = schema.unwrap_or_else(any_object);
            found.push(("response_format", Grammar::JsonSchema(schema)));
        }
        Some(Object(ResponseFormat::JsonSchema { json_schema })) => {
            let schema = json_schema.0.schema.unwrap_or_else(any_object);
            found.push(("response_format", Grammar::JsonSchema(schema)));
        }
    }
    for name in ["json_schema", "guided_json"] {
        if let Some(schema) = fields.take(name, "a JSON schema")? {
            found.push((name, Grammar::JsonSchema(schema)));
        }
    }
    if let Some(regex) = fields.take("guided_regex", "a regular expression")? {
        found.push(("guided_regex", Grammar::Regex(regex)));
    }
    for name in ["grammar", "guided_grammar"] {
        if let Some(lark) = fields.take(name, "a grammar as text")? {
            found.push((name, Grammar::Lark(lark)));
        }
    }
    if let Some(choices) = fields.take::<Vec<String>>("guided_choice", "a list of texts")? {
        if choices.is_empty() {
            let message = "guided_choice is an empty list, expected texts";
            return Err(ApiError::field("guided_choice", message));
        }
        let choices: Vec<String> = choices.iter().map(|text| literal(text)).collect();
        found.push(("guided_choice", Grammar::Regex(choices.join("|"))));
    }
    match &found[..] {
        [] => Ok(None),
        [_] => Ok(found.pop().map(|(_, grammar)| grammar)),
        [(first, _), (second, _), ..] => Err(ApiError::field(
            *second,
            format!("{first} and {second} both limit the text, expected one of them"),
        )),
    }
}

/// Returns a regular expression for one text.
fn literal(text: &str) -> String {
    let mut regex = String::from("(?:");
    for c in text.chars() {
        // `\<` and `\>` would be the ends of words.
        if c.is_ascii_punctuation() && !matches!(c, '<' | '>') {
            regex.push('\\');
        }
        regex.push(c);
    }
    regex.push(')');
    regex
}

fn any_object() -> Value {
    json!({"type": "object"})
}
