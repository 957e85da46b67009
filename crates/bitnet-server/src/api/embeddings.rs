//! `/v1/embeddings`

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bitnet_inference::{StopSequences, Task, Work};
use serde::{Deserialize, Serialize};

use super::fields::Fields;
use super::generation::{check_prompt, submit};
use super::{Asked, aside, asked, check_model, document};
use crate::app::{App, Client};
use crate::error::ApiError;
use crate::job::{Job, JobEvent, TextEvent};
use crate::model::ModelFacts;

/// Texts to embed, as texts or as tokens.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Inputs {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

#[derive(Clone, Copy, Debug)]
enum EncodingFormat {
    Float,
    Base64,
}

#[derive(Serialize)]
struct Reply<'a> {
    object: &'static str,
    data: Vec<Item>,
    model: &'a str,
    usage: Usage,
}

#[derive(Serialize)]
struct Item {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Float(Vec<f32>),
    Base64(String),
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

/// A request, read and checked.
pub(super) struct Texts {
    tokens: Vec<Vec<u32>>,
    format: EncodingFormat,
    ignored: Vec<String>,
}

pub async fn create(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let asked = asked(&app, request).await?;
    let (client, model) = (asked.client, Arc::clone(&asked.model));
    let Texts {
        tokens,
        format,
        ignored,
    } = aside(move || read(asked)).await?;
    let (vectors, n_tokens) = embed(&app, &model, client, tokens, "input").await?;
    let data = vectors.into_iter().enumerate();
    let reply = Reply {
        object: "list",
        data: data
            .map(|(index, vector)| Item {
                object: "embedding",
                index,
                embedding: encode(vector, format),
            })
            .collect(),
        model: &model.name,
        usage: Usage {
            prompt_tokens: n_tokens,
            total_tokens: n_tokens,
        },
    };
    Ok(document(&reply, &ignored))
}

/// Returns the vectors, `[hidden_dim]` each, of the texts in the document of a request.
pub async fn vectors(
    app: &App,
    model: &Arc<ModelFacts>,
    body: String,
) -> Result<Vec<Vec<f32>>, ApiError> {
    let asked = Asked {
        model: Arc::clone(model),
        client: Client(0),
        fields: Fields::parse(body.as_bytes(), app.options.lenient)?,
    };
    let Texts { tokens, .. } = aside(move || read(asked)).await?;
    Ok(embed(app, model, Client(0), tokens, "input").await?.0)
}

/// Computes the vectors of texts from this field. Returns also the number of tokens.
pub async fn embed(
    app: &App,
    model: &ModelFacts,
    client: Client,
    tokens: Vec<Vec<u32>>,
    field: &str,
) -> Result<(Vec<Vec<f32>>, usize), ApiError> {
    let limit = app.options.max_waiting + app.options.max_running;
    let n_texts = tokens.len();
    if n_texts > limit {
        return Err(ApiError::field(
            field,
            format!("{field} has {n_texts} texts, but this server holds {limit} at most"),
        ));
    }
    let tasks = tokens.into_iter().map(|prompt| Task {
        prompt,
        work: Work::Embed,
    });
    let tasks: Vec<Task> = tasks.collect();
    let mut handle = submit(app, model, |reply| Job {
        client: client.0,
        tasks,
        stops: StopSequences::default(),
        reply,
        submitted: Instant::now(),
    })
    .await?;
    let mut vectors: Vec<Option<Vec<f32>>> = vec![None; n_texts];
    let mut n_tokens = 0;
    while vectors.iter().any(Option::is_none) {
        let JobEvent { index, event } = handle.next().await.ok_or_else(ApiError::ending)?;
        match event {
            TextEvent::Embedding(vector, usage) => {
                vectors[index] = Some(vector);
                n_tokens += usage.n_prompt;
            }
            TextEvent::Failed(error) => return Err(error.into()),
            _ => {}
        }
    }
    Ok((vectors.into_iter().flatten().collect(), n_tokens))
}

/// Returns a vector as numbers, or as base64 of its little-endian bytes.
fn encode(vector: Vec<f32>, format: EncodingFormat) -> Vector {
    match format {
        EncodingFormat::Float => Vector::Float(vector),
        EncodingFormat::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            Vector::Base64(BASE64_STANDARD.encode(bytes))
        }
    }
}

/// The end at which a text that is too long is cut, if its request asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    Left,
    Right,
}

/// Cuts a text to the context, but for the special tokens that begin and end it.
fn cut_to(context_len: usize, tokens: &mut Vec<u32>, cut: Cut, is_special: impl Fn(u32) -> bool) {
    let surplus = tokens.len().saturating_sub(context_len);
    let begin = usize::from(tokens.first().is_some_and(|&id| is_special(id)));
    let end = tokens.len() - usize::from(tokens.last().is_some_and(|&id| is_special(id)));
    if begin + surplus > end {
        return;
    }
    let start = match cut {
        Cut::Left => begin,
        Cut::Right => end - surplus,
    };
    tokens.drain(start..start + surplus);
}

/// Takes `dimensions`, which must be those of the model.
pub fn check_dimensions(fields: &mut Fields, model: &ModelFacts) -> Result<(), ApiError> {
    let expected = format!("{}, the size of the model's", model.hidden_dim);
    let dimensions: Option<usize> = fields.take("dimensions", &expected)?;
    match dimensions.filter(|n| *n != model.hidden_dim) {
        None => Ok(()),
        Some(n) => Err(ApiError::field(
            "dimensions",
            format!("dimensions is {n}, expected {expected}"),
        )),
    }
}

/// Takes the texts to embed from the field of this name, as tokens.
pub fn take_texts(
    fields: &mut Fields,
    model: &ModelFacts,
    name: &'static str,
    cut: Option<Cut>,
) -> Result<Vec<Vec<u32>>, ApiError> {
    let expected = "a text, a list of texts, of token ids, or of lists of token ids";
    let encode = |text: &String| {
        if text.is_empty() {
            return Err(ApiError::field(name, format!("{name} has an empty text")));
        }
        Ok(model.tokenizer.encode_with_eos(text)?)
    };
    let mut tokens = match fields.need(name, expected)? {
        Inputs::Text(text) => vec![encode(&text)?],
        Inputs::Texts(texts) => texts.iter().map(encode).collect::<Result<_, _>>()?,
        Inputs::Tokens(tokens) => vec![tokens],
        Inputs::TokenLists(lists) => lists,
    };
    if tokens.is_empty() {
        let message = format!("{name} is an empty list, expected {expected}");
        return Err(ApiError::field(name, message));
    }
    for tokens in &mut tokens {
        if let Some(cut) = cut {
            cut_to(model.context_len, tokens, cut, |id| {
                model.tokenizer.is_special(id)
            });
        }
        check_prompt(model, tokens, name)?;
    }
    Ok(tokens)
}

pub(super) fn read(asked: Asked) -> Result<Texts, ApiError> {
    let Asked {
        model, mut fields, ..
    } = asked;
    check_model(&model, &mut fields)?;
    let tokens = take_texts(&mut fields, &model, "input", None)?;
    let expected = "\"float\" or \"base64\"";
    let format = fields.take::<String>("encoding_format", expected)?;
    let format = match format.as_deref() {
        None | Some("float") => EncodingFormat::Float,
        Some("base64") => EncodingFormat::Base64,
        Some(format) => {
            let message = format!("encoding_format is {format:?}, expected {expected}");
            return Err(ApiError::field("encoding_format", message));
        }
    };
    check_dimensions(&mut fields, &model)?;
    fields.without_effect(&["user"]);
    Ok(Texts {
        tokens,
        format,
        ignored: fields.finish()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_but_for_what_begins_and_ends_it() {
        let is_special = |id| id == 0 || id == 9;
        for (given, cut, n, expected) in [
            (0..10, Cut::Right, 4, vec![0, 1, 2, 9]),
            (0..10, Cut::Left, 4, vec![0, 7, 8, 9]),
            (0..9, Cut::Right, 4, vec![0, 1, 2, 3]),
            (1..9, Cut::Left, 3, vec![6, 7, 8]),
            (0..10, Cut::Right, 2, vec![0, 9]),
            (0..10, Cut::Left, 10, (0..10).collect()),
            // Nothing would be left between them.
            (0..10, Cut::Left, 1, (0..10).collect()),
        ] {
            let mut tokens: Vec<u32> = given.collect();
            cut_to(n, &mut tokens, cut, is_special);
            assert_eq!(tokens, expected, "{cut:?} {n}");
        }
    }
}
