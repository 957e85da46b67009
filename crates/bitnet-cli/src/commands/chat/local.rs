//! Answers of a model on this machine.

use anyhow::Context;
use bitnet_inference::{
    ChatPrompt, ChatTemplate, FinishReason, GenerateError, GenerateOptions, SamplerOptions,
    Tokenizer, generate,
};

use super::transcript::Transcript;
use super::{Answer, Args, OnFull, Speaker};
use crate::commands::generation::{Printer, Report, Timings, show_drafts};
use crate::interrupt;
use crate::model::LoadedModel;
use crate::ui::Ui;

/// A loaded model.
pub struct LocalSpeaker<'a> {
    args: &'a Args,
    sampling: SamplerOptions,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    loaded: LoadedModel,
    /// The tokens in the engine's KV cache.
    held: Vec<u32>,
}

impl<'a> LocalSpeaker<'a> {
    /// Loads the model.
    pub fn load(args: &'a Args, ui: &Ui) -> anyhow::Result<Self> {
        let checkpoint = args.model.model.open(ui)?;
        if args.model.model.is_builtin() {
            ui.note(
                "note: it was not trained for conversations; `bitnet run \"Once upon a time\"` is \
                 what it can do. For one that was: `bitnet pull microsoft/bitnet-b1.58-2B-4T-gguf`, \
                 then `bitnet chat -m microsoft/bitnet-b1.58-2B-4T-gguf`",
            );
        }
        let tokenizer = args.model.model.tokenizer(&checkpoint, ui)?;
        let template = (args.template).resolve(&args.model.model, &checkpoint, &tokenizer, ui)?;
        let head = args.model.compute.head.for_largest();
        let loaded = (args.model).load(&checkpoint, args.generate.context, head, ui)?;
        loaded.keep_weights(ui)?;
        let sampling = args.generate.sampling(&checkpoint, ui);
        ui.detail(&format!("seed {}", sampling.seed));
        Ok(Self {
            args,
            sampling,
            tokenizer,
            template,
            loaded,
            held: Vec::new(),
        })
    }

    /// Returns the prompt of the conversation with this message. If there is no room
    /// for it and an answer, the oldest turns are dropped.
    fn prompt(
        &self,
        transcript: &mut Transcript,
        message: &str,
        ui: &Ui,
    ) -> anyhow::Result<ChatPrompt> {
        let options = self.args.template.options()?;
        let prompt_from = |transcript: &Transcript, first| {
            let messages = transcript.messages(first, Some(message));
            self.template.encode(&self.tokenizer, &messages, &options)
        };
        let context_len = self.loaded.engine.plan().context_len;
        let n_free = |prompt: &ChatPrompt| context_len.saturating_sub(prompt.ids.len());
        // Room for a useful answer, and after dropping turns for some more turns, since
        // the rest has to be prefilled again.
        let quarter = context_len / 4;
        let room = self.args.max_tokens.min(quarter);

        let kept = transcript.kept();
        let mut prompt = prompt_from(transcript, kept.start)?;
        if n_free(&prompt) < room && self.args.on_full == OnFull::Drop && !kept.is_empty() {
            let (mut first, mut end) = (kept.start + 1, kept.end);
            while first < end {
                let middle = first.midpoint(end);
                if n_free(&prompt_from(transcript, middle)?) < quarter {
                    first = middle + 1;
                } else {
                    end = middle;
                }
            }
            prompt = prompt_from(transcript, first)?;
            if prompt.ids.len() <= context_len {
                let forgotten = transcript.forget_before(first);
                ui.note(&format!(
                    "note: the context is full; the oldest turns are dropped ({forgotten}); \
                     `-c` sets a larger one"
                ));
            }
        }
        if prompt.ids.len() > context_len {
            return Err(GenerateError::PromptTooLong {
                n_tokens: prompt.ids.len(),
                context_len,
            }
            .into());
        }
        Ok(prompt)
    }

    fn write_answer(
        &mut self,
        prompt: &ChatPrompt,
        retries: u64,
        ui: &Ui,
    ) -> anyhow::Result<Answer> {
        if self.args.show_prompt {
            ui.note(&prompt.text);
        }
        let prompt_ids = &prompt.ids[..];
        let same = self.held.iter().zip(prompt_ids);
        let sampling = SamplerOptions {
            // The same seed would give the same answer again.
            seed: self.sampling.seed.wrapping_add(retries),
            ..self.sampling
        };
        let options = GenerateOptions {
            prompt: prompt_ids,
            max_tokens: self.args.max_tokens,
            sampling,
            logit_bias: &[],
            reuse: same.take_while(|(held, wanted)| held == wanted).count(),
            speculate: self.args.generate.speculation.is_on(),
        };
        let stream = self.tokenizer.stream(prompt_ids);
        let stops = self.args.generate.stops()?;
        let mut printer = Printer::new(ui, !self.args.json, "", stream, &stops);
        let engine = &mut self.loaded.engine;
        let generation = {
            let _deferred = interrupt::Deferred::new();
            generate(
                engine,
                &options,
                |id| self.tokenizer.is_eog(id),
                |event| printer.on_event(event),
            )
        };
        let written = generation.as_ref().map_or(&[][..], |written| &written.ids);
        self.held = [prompt_ids, written].concat();
        self.held.truncate(engine.len(0));
        let generation = generation.context("failed to answer")?;
        let written = printer.finish(&generation)?;

        let timings = Timings::new(self.loaded.load_time, prompt_ids.len(), &generation);
        if self.args.json {
            ui.json(&Report {
                prompt_ids,
                ids: written.ids,
                text: &written.text,
                finish_reason: written.finish_reason.name(),
                seed: sampling.seed,
                timings,
            })?;
        } else {
            ui.line("")?;
        }
        let timings = format!(
            "[{} prompt tokens, {} of them cached, {:.0} tok/s; {} generated at {:.0} tok/s{}]",
            prompt_ids.len(),
            generation.reused,
            timings.prefill_tok_s,
            generation.ids.len(),
            timings.decode_tok_s,
            match written.finish_reason {
                FinishReason::Length => ", cut off",
                FinishReason::Stop => ", stopped",
                FinishReason::Eos => "",
            }
        );
        ui.detail(&timings);
        show_drafts(&generation, ui);
        Ok(Answer {
            text: written.text,
            timings,
        })
    }
}

impl Speaker for LocalSpeaker<'_> {
    fn answer(
        &mut self,
        transcript: &mut Transcript,
        message: &str,
        retries: u64,
        ui: &Ui,
    ) -> anyhow::Result<Answer> {
        let prompt = self.prompt(transcript, message, ui)?;
        self.write_answer(&prompt, retries, ui)
    }
}
