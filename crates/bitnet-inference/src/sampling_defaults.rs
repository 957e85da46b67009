//! Recommended sampling parameters of a model.
//!
//! They come from two kinds of files, each interpreted like the program that defined it.
//!
//! - `generation_config.json` of a folder is defined by `transformers`, which omits values
//!   equal to its defaults. With `"do_sample": true`, missing values are therefore
//!   temperature 1, top-k 50, top-p 1 and no min-p: Gemma 3 recommends temperature 1
//!   implicitly. `"do_sample": false` is greedy. Without `do_sample` (files generated from
//!   `config.json`, as in most base models) only values in the file count, since the others
//!   were not chosen. Its repeat penalty applies to the whole text.
//! - `general.sampling.*` in GGUF metadata is defined by llama.cpp, where each value
//!   replaces the program's default.
//!
//! These values are optional, so an invalid value or an unsupported step is ignored with a
//! message.

use std::io;
use std::path::Path;

use serde_json::{Map, Value as Json};

use crate::format::checkpoint::{Checkpoint, Origin};
use crate::format::gguf::{Gguf, Value};
use crate::format::lax_json;
use crate::sampler::SamplerOptions;

const GENERATION_CONFIG: &str = "generation_config.json";
const GGUF_KEYS: &str = "general.sampling";

/// The default top-k of `transformers`.
const TRANSFORMERS_TOP_K: usize = 50;

/// Unsupported steps of `transformers`, with the values at which they have no effect.
const OTHER_STEPS_OF_TRANSFORMERS: [(&str, f64); 7] = [
    ("num_beams", 1.0),
    ("typical_p", 1.0),
    ("epsilon_cutoff", 0.0),
    ("eta_cutoff", 0.0),
    ("penalty_alpha", 0.0),
    ("no_repeat_ngram_size", 0.0),
    ("encoder_repetition_penalty", 1.0),
];

/// The same for llama.cpp.
const OTHER_STEPS_OF_LLAMA_CPP: [(&str, f64); 2] = [("mirostat", 0.0), ("xtc_probability", 0.0)];

/// Recommended sampling parameters of a model; `None` without a recommendation. All values
/// are in the range of the [`SamplerOptions`] of the same names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SamplingDefaults {
    /// The source: `generation_config.json` or `general.sampling`.
    pub source: &'static str,
    /// See [`SamplerOptions::temperature`]; 0 if greedy sampling is recommended.
    pub temperature: Option<f32>,
    /// See [`SamplerOptions::top_k`].
    pub top_k: Option<usize>,
    /// See [`SamplerOptions::top_p`].
    pub top_p: Option<f32>,
    /// See [`SamplerOptions::min_p`].
    pub min_p: Option<f32>,
    /// See [`SamplerOptions::repeat_penalty`].
    pub repeat_penalty: Option<f32>,
    /// See [`SamplerOptions::penalty_window`]; [`usize::MAX`] for all tokens.
    pub penalty_window: Option<usize>,
    /// A message for each ignored value, such as `top_p is 7, expected 0 to 1`.
    pub ignored: Vec<String>,
}

impl SamplingDefaults {
    /// Returns the recommendations in the files of a model.
    pub fn of_model(checkpoint: &Checkpoint) -> Self {
        match checkpoint.origin() {
            Origin::Gguf(gguf) => Self::from_gguf(gguf),
            Origin::HuggingFace(folder) => Self::from_folder(folder),
        }
    }

    /// Returns the recommended options, with defaults for the others.
    pub fn options(&self) -> SamplerOptions {
        let default = SamplerOptions::default();
        SamplerOptions {
            temperature: self.temperature.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(default.repeat_penalty),
            penalty_window: self.penalty_window.unwrap_or(default.penalty_window),
            ..default
        }
    }

    fn from_folder(folder: &Path) -> Self {
        let ignored = |message: String| Self {
            source: GENERATION_CONFIG,
            ignored: vec![message],
            ..Self::default()
        };
        let bytes = match std::fs::read(folder.join(GENERATION_CONFIG)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::default(),
            Err(error) => return ignored(format!("the file cannot be read ({error})")),
        };
        let read = serde_json::from_slice(&bytes);
        match read.or_else(|error| lax_json::from_slice(&bytes).ok_or(error)) {
            Ok(json) => Self::from_json(&json),
            Err(error) => ignored(format!("the file is not as expected ({error})")),
        }
    }

    fn from_json(json: &Map<String, Json>) -> Self {
        let mut fields = Fields::new(|key| match json.get(key)? {
            // Equivalent to a missing key.
            Json::Null => None,
            Json::Number(number) => Some(number.as_f64().ok_or_else(|| number.to_string())),
            other => Some(Err(other.to_string())),
        });
        let mut defaults = Self {
            source: GENERATION_CONFIG,
            temperature: fields.float("temperature", |options| &mut options.temperature),
            top_k: fields.count("top_k", 0),
            top_p: fields.float("top_p", |options| &mut options.top_p),
            min_p: fields.float("min_p", |options| &mut options.min_p),
            repeat_penalty: fields
                .float("repetition_penalty", |options| &mut options.repeat_penalty),
            ..Self::default()
        };
        if defaults.repeat_penalty.is_some() {
            defaults.penalty_window = Some(usize::MAX);
        }
        for (key, neutral) in OTHER_STEPS_OF_TRANSFORMERS {
            fields.not_implemented(key, neutral);
        }
        defaults.ignored = fields.ignored;
        match json.get("do_sample") {
            Some(Json::Bool(true)) => {
                // A top-k of null disables it.
                let is_null = json.get("top_k").is_some_and(Json::is_null);
                let top_k = if is_null { 0 } else { TRANSFORMERS_TOP_K };
                defaults.temperature.get_or_insert(1.0);
                defaults.top_k.get_or_insert(top_k);
                defaults.top_p.get_or_insert(1.0);
                defaults.min_p.get_or_insert(0.0);
            }
            Some(Json::Bool(false)) => defaults.temperature = Some(0.0),
            None | Some(Json::Null) => {}
            Some(other) => {
                let message = format!("do_sample is {other}, expected true or false");
                defaults.ignored.push(message);
            }
        }
        defaults
    }

    fn from_gguf(gguf: &Gguf) -> Self {
        let get = |key: &str| gguf.get(&format!("{GGUF_KEYS}.{key}"));
        // llama.cpp accepts numbers of any type.
        let mut fields = Fields::new(|key| {
            Some(match *get(key)? {
                Value::U8(x) => Ok(x.into()),
                Value::I8(x) => Ok(x.into()),
                Value::U16(x) => Ok(x.into()),
                Value::I16(x) => Ok(x.into()),
                Value::U32(x) => Ok(x.into()),
                Value::I32(x) => Ok(x.into()),
                Value::U64(x) => Ok(x as f64),
                Value::I64(x) => Ok(x as f64),
                Value::F32(x) => Ok(x.into()),
                Value::F64(x) => Ok(x),
                ref other => Err(format!("of type {}", other.type_name())),
            })
        });
        let mut defaults = Self {
            source: GGUF_KEYS,
            temperature: fields.float("temp", |options| &mut options.temperature),
            top_k: fields.count("top_k", 0),
            top_p: fields.float("top_p", |options| &mut options.top_p),
            min_p: fields.float("min_p", |options| &mut options.min_p),
            repeat_penalty: fields.float("penalty_repeat", |options| &mut options.repeat_penalty),
            penalty_window: fields.count("penalty_last_n", usize::MAX),
            ..Self::default()
        };
        for (key, neutral) in OTHER_STEPS_OF_LLAMA_CPP {
            fields.not_implemented(key, neutral);
        }
        if let Some(Value::String(sequence)) = get("sequence") {
            let message = format!("sequence is {sequence:?}, but the order of steps is fixed");
            fields.ignored.push(message);
        }
        defaults.ignored = fields.ignored;
        defaults
    }
}

/// Serialization for conversion.
impl SamplingDefaults {
    /// Returns the same recommendations as GGUF metadata, in the types that llama.cpp's
    /// converter writes.
    pub(crate) fn gguf_metadata(&self) -> impl Iterator<Item = (String, Value)> {
        // As in llama.cpp, whose -1 is all.
        let count = |n: usize| Value::I32(i32::try_from(n).unwrap_or(-1));
        let values = [
            ("temp", self.temperature.map(Value::F32)),
            ("top_k", self.top_k.map(count)),
            ("top_p", self.top_p.map(Value::F32)),
            ("min_p", self.min_p.map(Value::F32)),
            ("penalty_repeat", self.repeat_penalty.map(Value::F32)),
            ("penalty_last_n", self.penalty_window.map(count)),
        ];
        let values = values.into_iter();
        values.filter_map(|(key, value)| Some((format!("{GGUF_KEYS}.{key}"), value?)))
    }

    /// Returns the same recommendations as a part of `generation_config.json`.
    pub(crate) fn generation_config(&self) -> Map<String, Json> {
        // The shortest decimal of the f32; converting it to f64 would not give that.
        let float = |x: f32| x.to_string().parse::<f64>().map_or(Json::Null, Json::from);
        let options = self.options();
        let mut json = Map::new();
        if let Some(penalty) = self.repeat_penalty {
            json.insert("repetition_penalty".to_owned(), float(penalty));
        }
        if self.temperature.is_some() && options.is_greedy() {
            json.insert("do_sample".to_owned(), false.into());
            return json;
        }
        let steps = [
            ("temperature", self.temperature.map(float)),
            ("top_k", self.top_k.map(Json::from)),
            ("top_p", self.top_p.map(float)),
            ("min_p", self.min_p.map(float)),
        ];
        for (key, value) in steps {
            if let Some(value) = value {
                json.insert("do_sample".to_owned(), true.into());
                json.insert(key.to_owned(), value);
            }
        }
        json
    }
}

/// The numbers of a file, and messages about invalid ones.
struct Fields<F> {
    /// Returns the number of a key, or a description of another value; `None` if the key is
    /// missing.
    find: F,
    ignored: Vec<String>,
}

impl<F: Fn(&str) -> Option<Result<f64, String>>> Fields<F> {
    fn new(find: F) -> Self {
        Self {
            find,
            ignored: Vec::new(),
        }
    }

    fn ignore(&mut self, key: &str, found: impl std::fmt::Display, expected: &str) {
        self.ignored
            .push(format!("{key} is {found}, expected {expected}"));
    }

    fn number(&mut self, key: &str) -> Option<f64> {
        match (self.find)(key)? {
            Ok(number) => Some(number),
            Err(found) => {
                self.ignore(key, found, "a number");
                None
            }
        }
    }

    /// Returns a value that is valid for this option.
    fn float(&mut self, key: &str, option: fn(&mut SamplerOptions) -> &mut f32) -> Option<f32> {
        let value = self.number(key)? as f32;
        let mut options = SamplerOptions::GREEDY;
        *option(&mut options) = value;
        match options.validate() {
            Ok(()) => Some(value),
            Err(error) => {
                self.ignore(key, error.value, error.expected);
                None
            }
        }
    }

    /// Returns a number of tokens; -1 means `all`.
    fn count(&mut self, key: &str, all: usize) -> Option<usize> {
        let number = self.number(key)?;
        if number == -1.0 {
            Some(all)
        } else if number >= 0.0 && number.is_finite() && libm::trunc(number) == number {
            Some(number as usize)
        } else {
            self.ignore(key, number, "a number of tokens, or -1 for all");
            None
        }
    }

    /// Adds a message if an unsupported step is recommended.
    fn not_implemented(&mut self, key: &str, neutral: f64) {
        if let Some(number) = self.number(key)
            && number != neutral
        {
            self.ignored
                .push(format!("{key} is {number}, which is not implemented"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::gguf::{Array, GgufWriter};

    fn of_json(json: &str) -> SamplingDefaults {
        SamplingDefaults::from_json(&serde_json::from_str(json).unwrap())
    }

    fn of_gguf(pairs: &[(&str, Value)]) -> SamplingDefaults {
        let mut writer = GgufWriter::new();
        for (key, value) in pairs {
            writer.metadata(format!("general.sampling.{key}"), value.clone());
        }
        let file = writer.write(Vec::new(), |_, _| Ok::<_, io::Error>(()));
        SamplingDefaults::from_gguf(&Gguf::parse(&file.unwrap()).unwrap())
    }

    /// Temperature, top-k, top-p and min-p.
    fn steps(
        defaults: &SamplingDefaults,
    ) -> (Option<f32>, Option<usize>, Option<f32>, Option<f32>) {
        let d = defaults;
        assert!(d.ignored.is_empty(), "{d:?}");
        (d.temperature, d.top_k, d.top_p, d.min_p)
    }

    #[test]
    fn a_folder_that_samples_means_what_transformers_makes_of_it() {
        // BitNet b1.58 2B-4T, Qwen 3, Gemma 3, and a minimal file.
        let cases = [
            (
                r#"{"do_sample": true, "temperature": 0.6, "top_p": 0.9}"#,
                (0.6, 50, 0.9, 0.0),
            ),
            (
                r#"{"do_sample": true, "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0}"#,
                (0.6, 20, 0.95, 0.0),
            ),
            (
                r#"{"do_sample": true, "top_k": 64, "top_p": 0.95}"#,
                (1.0, 64, 0.95, 0.0),
            ),
            (r#"{"do_sample": true}"#, (1.0, 50, 1.0, 0.0)),
            (
                r#"{"do_sample": true, "top_k": null, "min_p": 0.1}"#,
                (1.0, 0, 1.0, 0.1),
            ),
            (r#"{"do_sample": true, "top_k": -1}"#, (1.0, 0, 1.0, 0.0)),
        ];
        for (json, (temperature, top_k, top_p, min_p)) in cases {
            let found = steps(&of_json(json));
            let expected = (Some(temperature), Some(top_k), Some(top_p), Some(min_p));
            assert_eq!(found, expected, "{json}");
        }
    }

    #[test]
    fn a_folder_that_does_not_say_whether_it_samples_gives_what_it_names() {
        assert_eq!(
            steps(&of_json(
                r#"{"_from_model_config": true, "eos_token_id": 2}"#
            )),
            (None, None, None, None)
        );
        assert_eq!(
            steps(&of_json(r#"{"temperature": 0.6, "top_p": null}"#)),
            (Some(0.6), None, None, None)
        );
        let options = of_json(r#"{"temperature": 0.6}"#).options();
        assert_eq!(
            options,
            SamplerOptions {
                temperature: 0.6,
                ..SamplerOptions::default()
            }
        );
    }

    #[test]
    fn a_folder_that_does_not_sample_is_greedy_with_its_repeat_penalty() {
        let defaults =
            of_json(r#"{"do_sample": false, "temperature": 0.9, "repetition_penalty": 1.05}"#);
        let options = defaults.options();
        assert!(options.is_greedy());
        assert_eq!(
            (options.repeat_penalty, options.penalty_window),
            (1.05, usize::MAX)
        );
    }

    #[test]
    fn gguf_keys_take_the_place_of_the_defaults_one_by_one() {
        let default = SamplerOptions::default();
        assert_eq!(of_gguf(&[]).options(), default);
        let defaults = of_gguf(&[("temp", Value::F32(0.3)), ("top_k", Value::I32(40))]);
        let expected = SamplerOptions {
            temperature: 0.3,
            top_k: 40,
            ..default
        };
        assert_eq!(defaults.options(), expected);
        // Numbers of any type, and -1 for all.
        let defaults = of_gguf(&[
            ("temp", Value::U8(0)),
            ("top_k", Value::F64(20.0)),
            ("top_p", Value::I64(1)),
            ("min_p", Value::F64(0.25)),
            ("penalty_repeat", Value::F32(1.5)),
            ("penalty_last_n", Value::I32(-1)),
            ("mirostat", Value::I32(0)),
        ]);
        let expected = SamplerOptions {
            temperature: 0.0,
            top_k: 20,
            top_p: 1.0,
            min_p: 0.25,
            repeat_penalty: 1.5,
            penalty_window: usize::MAX,
            ..default
        };
        assert_eq!(defaults.options(), expected);
        assert!(defaults.ignored.is_empty());
        let all = of_gguf(&[
            ("top_k", Value::I32(-1)),
            ("penalty_last_n", Value::I32(64)),
        ]);
        assert_eq!((all.top_k, all.penalty_window), (Some(0), Some(64)));
    }

    #[test]
    fn what_makes_no_sense_is_left_out_with_a_message() {
        let defaults = of_json(
            r#"{"do_sample": "yes", "temperature": -1, "top_k": 1.5, "top_p": 7, "min_p": "none",
                "repetition_penalty": 1e300, "typical_p": 0.9, "num_beams": 1}"#,
        );
        assert_eq!(defaults.options(), SamplerOptions::default());
        insta::assert_snapshot!(defaults.ignored.join("\n"), @r#"
        temperature is -1, expected 0 or more
        top_k is 1.5, expected a number of tokens, or -1 for all
        top_p is 7, expected 0 to 1
        min_p is "none", expected a number
        repetition_penalty is inf, expected above 0
        typical_p is 0.9, which is not implemented
        do_sample is "yes", expected true or false
        "#);
        let defaults = of_gguf(&[
            ("temp", Value::F32(f32::NAN)),
            ("top_k", Value::I32(-2)),
            ("top_p", Value::String("0.9".to_owned())),
            ("min_p", Value::Array(Array::F32(vec![0.1]))),
            ("penalty_repeat", Value::F32(0.0)),
            ("penalty_last_n", Value::F32(f32::INFINITY)),
            ("mirostat", Value::I32(2)),
            ("xtc_probability", Value::F32(0.5)),
            ("sequence", Value::String("temperature;top_k".to_owned())),
        ]);
        assert_eq!(defaults.options(), SamplerOptions::default());
        insta::assert_snapshot!(defaults.ignored.join("\n"), @r#"
        temp is NaN, expected 0 or more
        top_k is -2, expected a number of tokens, or -1 for all
        top_p is of type string, expected a number
        min_p is of type array of f32, expected a number
        penalty_repeat is 0, expected above 0
        penalty_last_n is inf, expected a number of tokens, or -1 for all
        mirostat is 2, which is not implemented
        xtc_probability is 0.5, which is not implemented
        sequence is "temperature;top_k", but the order of steps is fixed
        "#);
    }

    #[test]
    fn conversions_keep_what_is_recommended() {
        for json in [
            r#"{"do_sample":true,"min_p":0.05,"repetition_penalty":1.1,"temperature":0.6,"top_k":20,"top_p":0.95}"#,
            r#"{"do_sample":false,"repetition_penalty":1.05}"#,
            r#"{"do_sample":false}"#,
            "{}",
        ] {
            let defaults = of_json(json);
            let again = Json::Object(defaults.generation_config());
            assert_eq!(again, serde_json::from_str::<Json>(json).unwrap());
            let metadata: Vec<_> = defaults.gguf_metadata().collect();
            let metadata: Vec<_> = metadata
                .iter()
                .map(|(key, value)| {
                    (
                        key.strip_prefix("general.sampling.").unwrap(),
                        value.clone(),
                    )
                })
                .collect();
            let in_gguf = of_gguf(&metadata);
            assert_eq!(in_gguf.options(), defaults.options(), "{json}");
            assert_eq!(
                of_json(&Json::Object(in_gguf.generation_config()).to_string()).options(),
                defaults.options()
            );
        }
    }

    #[test]
    fn a_folder_without_the_file_recommends_nothing_and_a_broken_file_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let read = || SamplingDefaults::from_folder(folder.path());
        assert_eq!(read(), SamplingDefaults::default());
        for broken in ["", "[1]", "{\"temperature\": 1"] {
            std::fs::write(folder.path().join(GENERATION_CONFIG), broken).unwrap();
            let found = read();
            assert_eq!(found.options(), SamplerOptions::default());
            assert!(
                found.ignored[0].starts_with("the file is not as expected ("),
                "{found:?}"
            );
        }
        // Python's NaN invalidates only its own key.
        let file = folder.path().join(GENERATION_CONFIG);
        std::fs::write(file, "{\"temperature\": NaN, \"top_p\": 0.5}").unwrap();
        let found = read();
        assert_eq!((found.temperature, found.top_p), (None, Some(0.5)));
        let ignored = ["temperature is \"NaN\", expected a number"];
        assert_eq!(found.ignored, ignored);
    }
}
