//! `/tokenize`, `/detokenize` and `/apply-template`

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde::Serialize;

use super::{Asked, aside, asked, chat, check_model, document, tools};
use crate::app::App;
use crate::error::ApiError;

#[derive(Serialize)]
struct Tokens {
    tokens: Vec<Token>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Token {
    Id(u32),
    Piece { id: u32, piece: Piece },
}

/// The text of a token, or its bytes if they are no text alone.
#[derive(Serialize)]
#[serde(untagged)]
enum Piece {
    Text(String),
    Bytes(Vec<u8>),
}

#[derive(Serialize)]
struct Content {
    content: String,
}

#[derive(Serialize)]
struct Prompt {
    prompt: String,
    tokens: Vec<u32>,
}

pub async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    let asked = asked(&app, request).await?;
    aside(move || tokens_of(asked)).await
}

/// Answers `/tokenize`.
pub(super) fn tokens_of(asked: Asked) -> Result<Response, ApiError> {
    let Asked {
        model, mut fields, ..
    } = asked;
    check_model(&model, &mut fields)?;
    let content: String = fields.need("content", "a text")?;
    let add_special = fields
        .take("add_special", "true or false")?
        .unwrap_or(false);
    let with_pieces = fields
        .take("with_pieces", "true or false")?
        .unwrap_or(false);
    fields.without_effect(&["parse_special"]);
    let ignored = fields.finish()?;
    let tokenizer = &model.tokenizer;
    let ids = if add_special {
        tokenizer.encode(&content)?
    } else {
        tokenizer.encode_without_bos(&content)?
    };
    let token = |id: u32| {
        if !with_pieces {
            return Token::Id(id);
        }
        let piece = match String::from_utf8(tokenizer.bytes(id)) {
            Ok(text) => Piece::Text(text),
            Err(error) => Piece::Bytes(error.into_bytes()),
        };
        Token::Piece { id, piece }
    };
    let tokens = ids.into_iter().map(token).collect();
    Ok(document(&Tokens { tokens }, &ignored))
}

pub async fn detokenize(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let asked = asked(&app, request).await?;
    aside(move || text_of(asked)).await
}

/// Answers `/detokenize`.
pub(super) fn text_of(asked: Asked) -> Result<Response, ApiError> {
    let Asked {
        model, mut fields, ..
    } = asked;
    check_model(&model, &mut fields)?;
    let tokens: Vec<u32> = fields.need("tokens", "a list of token ids")?;
    let ignored = fields.finish()?;
    let vocab_size = model.vocab_size;
    if let Some(id) = tokens.iter().find(|id| **id as usize >= vocab_size) {
        let message = format!("tokens has {id}, expected token ids below {vocab_size}");
        return Err(ApiError::field("tokens", message));
    }
    let content = model.tokenizer.decode(&tokens, true);
    Ok(document(&Content { content }, &ignored))
}

pub async fn apply_template(
    State(app): State<Arc<App>>,
    request: Request,
) -> Result<Response, ApiError> {
    let asked = asked(&app, request).await?;
    aside(move || prompt_of(asked)).await
}

/// Answers `/apply-template`.
pub(super) fn prompt_of(asked: Asked) -> Result<Response, ApiError> {
    let Asked {
        model, mut fields, ..
    } = asked;
    check_model(&model, &mut fields)?;
    let tools = tools::take(&mut fields, &model)?;
    let prompt = chat::take_prompt(&mut fields, &model, &tools)?;
    let ignored = fields.finish()?;
    let reply = Prompt {
        prompt: prompt.text,
        tokens: prompt.ids,
    };
    Ok(document(&reply, &ignored))
}
