//! Help texts and completions.

use insta::assert_snapshot;

use super::bitnet;

/// Returns the help of a command, which fits a terminal.
fn help(command: &[&str]) -> String {
    let long = bitnet(&[command, &["--help"]].concat()).quietly();
    let short = bitnet(&[command, &["-h"]].concat()).quietly();
    assert_eq!(long, short);
    assert!(long.lines().count() <= 53, "{long}");
    long
}

#[test]
fn bitnet_itself() {
    assert_snapshot!(help(&[]), @r#"
    Run ternary (1.58-bit) language models: BitNet b1.58 and its family

    Usage: bitnet [OPTIONS] <COMMAND>

    Commands:
      run          Continue a prompt
      chat         Chat with a model
      serve        Serve a chat page and the APIs of OpenAI, Anthropic and Ollama
      batch        Answer a file of requests, as OpenAI's batch API does
      verify       Compute the text of a receipt again
      inspect      Show a model's properties without loading
      devices      Show the devices and kernels available
      tokenize     Show the tokens of a text, or the text of tokens
      logits       Show the most likely next tokens after given tokens
      embed        Compute the embedding vector of a text
      perplexity   Measure the perplexity of a text
      bench        Measure speed relative to the machine's limits
      convert      Convert a model to another format
      pull         Download a model
      cache        Show or remove packed weights that are kept for a faster start
      completions  Print a shell completion script
      man          Print the manual page, or write a page for each command
      help         Print this message or the help of the given subcommand(s)

    Options:
      -q, --quiet    Print only errors on stderr
      -v, --verbose  Print settings and timings on stderr
      -h, --help     Print help
      -V, --version  Print version

    Start with:  bitnet run "Once upon a time"
    Models:      -m FILE.gguf or -m HUGGINGFACE_FOLDER; without -m, a built-in one
    Exit codes:  0 done, 1 something failed, 2 bad arguments, 130 interrupted
    "#);
}

#[test]
fn run() {
    assert_snapshot!(help(&["run"]), @r#"
    Continue a prompt

    Usage: bitnet run [OPTIONS] [PROMPT]

    Arguments:
      [PROMPT]  The prompt; `-`, or none in a pipe, reads stdin

    Options:
      -f, --file <FILE>         Read the prompt from a file
      -n, --max-tokens <N>      Maximum tokens to write; -1: no limit [default: 128]
      -c, --context <N>         Context length [default: model's, up to 4096]
          --stop <TEXT>         Stop sequence; may be given several times
          --speculate <on|off>  Draft tokens where a text repeats [default: on]
          --json-schema <FILE>  JSON schema that the text follows
          --receipt <FILE>      Write what the text came from, for `bitnet verify`
          --json                Print one JSON document at the end
      -q, --quiet               Print only errors on stderr
      -v, --verbose             Print settings and timings on stderr
      -h, --help                Print help

    Model:
      -m, --model <MODEL>         A GGUF file or a HuggingFace folder [default:
                                  builtin]
      -t, --threads <N>           Threads [default: as many as the system offers]
          --device <KIND>         Device: auto, cpu, vulkan, metal or dx12 [default:
                                  auto]
          --kernel <NAME>         CPU kernel, such as avx2 [default: the best]
          --pin                   Pin each thread to a processor
          --weight-bits <BITS>    Weights packed in 2.0 or 1.6 bits [default: auto]
          --head <TYPE>           Output matrix: exact or int8 [default: int8]
          --kv <TYPE>             Keys and values: auto, f32, f16, or int8 for long
                                  contexts [default: f16]
          --memory-limit <BYTES>  Maximum memory use; --gpu-memory-limit: of a GPU
          --no-cache              Pack weights anew, keep none (see `bitnet cache`)
          --url <URL>             Server of OpenAI's API; key: OPENAI_API_KEY

    Sampling:
          --temp <T>               Temperature; 0 is greedy [default: 0.7]
          --top-k <K>              Keep the K most likely; -1: all [default: -1]
          --top-p <P>              Nucleus sampling probability [default: 0.95]
          --min-p <P>              Minimum relative probability [default: 0]
          --repeat-penalty <R>     Penalty of recent tokens [default: 1, off]
          --presence-penalty <R>   Penalty of present tokens [default: 0]
          --frequency-penalty <R>  Penalty per occurrence [default: 0]
          --seed <S>               Random seed [default: -1, random]

    A trailing newline of a file or stdin is removed. A seed, which --json and
    --verbose show, gives the same text everywhere. Models may have other defaults.

    Examples:
      bitnet run "Once upon a time"
      bitnet run -m ggml-model-i2_s.gguf -n 200 "The capital of France is"
      bitnet run --url http://127.0.0.1:8080 --seed 7 -f prompt.txt
    "#);
}

#[test]
fn inspect() {
    assert_snapshot!(help(&["inspect"]), @"
    Show a model's properties without loading

    Usage: bitnet inspect [OPTIONS] [MODEL]

    Arguments:
      [MODEL]  A GGUF file or a HuggingFace folder [default: builtin]

    Options:
          --tensors      List every tensor
          --check        Validate every weight, and print their hash
      -c, --context <N>  Plan for this context [default: the model's, up to 4096]
          --json         Print one JSON document
      -q, --quiet        Print only errors on stderr
      -v, --verbose      Print settings and timings on stderr
      -h, --help         Print help

    --check validates every weight. It also reports what no trained model has, such
    as a matrix of zeros. The content hash is the same for every file with the same
    weights, whatever its format.

    Examples:
      bitnet inspect builtin
      bitnet inspect ggml-model-i2_s.gguf --tensors
      bitnet inspect --check microsoft/bitnet-b1.58-2B-4T-gguf
    ");
}

#[test]
fn embed() {
    assert_snapshot!(help(&["embed"]), @r#"
    Compute the embedding vector of a text

    Usage: bitnet embed [OPTIONS] [TEXT]

    Arguments:
      [TEXT]  The text; `-`, or none in a pipe, reads stdin

    Options:
      -f, --file <FILE>   Read the text from a file
          --tokens <IDS>  Token ids instead of a text, such as 1,2,3, taken as they
                          are
          --json          Print one JSON document
      -q, --quiet         Print only errors on stderr
      -v, --verbose       Print settings and timings on stderr
      -h, --help          Print help

    Model:
      -m, --model <MODEL>         A GGUF file or a HuggingFace folder [default:
                                  builtin]
      -t, --threads <N>           Threads [default: as many as the system offers]
          --device <KIND>         Device: auto, cpu, vulkan, metal or dx12 [default:
                                  auto]
          --kernel <NAME>         CPU kernel, such as avx2 [default: the best]
          --pin                   Pin each thread to a processor
          --weight-bits <BITS>    Weights packed in 2.0 or 1.6 bits [default: auto]
          --head <TYPE>           Output matrix: exact or int8 [default: int8]
          --kv <TYPE>             Keys and values: auto, f32, f16, or int8 for long
                                  contexts [default: f16]
          --memory-limit <BYTES>  Maximum memory use; --gpu-memory-limit: of a GPU
          --no-cache              Pack weights anew, keep none (see `bitnet cache`)

    Prints the hidden state of the last token, normalized to length 1, one number
    per line. The dot product of two vectors is the similarity of their texts, if
    the model was trained for that, such as bitnet-embedding.

    Examples:
      bitnet embed -m bitnet-embedding.gguf "a cat sat on the mat"
      bitnet embed -m bitnet-embedding.gguf --json -f letter.txt
    "#);
}

#[test]
fn devices() {
    assert_snapshot!(help(&["devices"]), @"
    Show the devices and kernels available

    Usage: bitnet devices [OPTIONS]

    Options:
          --measure  Measure memory bandwidth and int8 throughput
          --json     Print one JSON document
      -q, --quiet    Print only errors on stderr
      -v, --verbose  Print settings and timings on stderr
      -h, --help     Print help

    Kernels are listed in order of preference. Without --device, a GPU computes if
    an estimate from its measured bandwidth says that it is faster for the model;
    `run -v` shows it. --measure takes some seconds and half a gigabyte of memory.

    Examples:
      bitnet devices
      bitnet devices --measure --json
    ");
}

#[test]
fn tokenize() {
    assert_snapshot!(help(&["tokenize"]), @r#"
    Show the tokens of a text, or the text of tokens

    Usage: bitnet tokenize [OPTIONS] [TEXT]

    Arguments:
      [TEXT]  The text; `-`, or none in a pipe, reads stdin

    Options:
      -f, --file <FILE>
              Read the text from a file
          --decode <IDS>
              Print the text of these ids, such as 1,2,3
          --no-bos
              Do not prepend the BOS token
          --chat
              Show the chat prompt of this first message
          --system <TEXT>
              With --chat: the system message
          --chat-template <TEMPLATE>
              Chat template: a name, a file, or Jinja text [default: the model's]
          --chat-template-kwargs <JSON>
              Variables for the chat template, such as '{"enable_thinking": false}'
          --parse-special
              Let messages contain control tokens, such as <|im_end|>, which are
              text otherwise
          --json
              Print one JSON document
      -q, --quiet
              Print only errors on stderr
      -v, --verbose
              Print settings and timings on stderr
      -h, --help
              Print help

    Model:
      -m, --model <MODEL>  A GGUF file or a HuggingFace folder [default: builtin]

    Examples:
      bitnet tokenize "Once upon a time"
      bitnet tokenize --json -f story.txt
      bitnet tokenize --chat -m model.gguf "Why is the sky blue?"
      bitnet tokenize --decode 46,1277,597,258,587
    "#);
}

#[test]
fn logits() {
    assert_snapshot!(help(&["logits"]), @"
    Show the most likely next tokens after given tokens

    Usage: bitnet logits [OPTIONS] --tokens <IDS>

    Options:
          --tokens <IDS>  Token ids, such as 1,2,3
          --top <N>       How many to show [default: 10]
          --json          Print one JSON document
      -q, --quiet         Print only errors on stderr
      -v, --verbose       Print settings and timings on stderr
      -h, --help          Print help

    Model:
      -m, --model <MODEL>         A GGUF file or a HuggingFace folder [default:
                                  builtin]
      -t, --threads <N>           Threads [default: as many as the system offers]
          --device <KIND>         Device: auto, cpu, vulkan, metal or dx12 [default:
                                  auto]
          --kernel <NAME>         CPU kernel, such as avx2 [default: the best]
          --pin                   Pin each thread to a processor
          --weight-bits <BITS>    Weights packed in 2.0 or 1.6 bits [default: auto]
          --head <TYPE>           Output matrix: exact or int8 [default: int8]
          --kv <TYPE>             Keys and values: auto, f32, f16, or int8 for long
                                  contexts [default: f16]
          --memory-limit <BYTES>  Maximum memory use; --gpu-memory-limit: of a GPU
          --no-cache              Pack weights anew, keep none (see `bitnet cache`)

    Prints id, logit and text of each. The tokens are used as given: no BOS is
    added. `bitnet tokenize --json` prints the ids of a text.

    Example:
      bitnet logits --tokens 8176,46,1277,597,258,587 --top 5 --head exact
    ");
}

#[test]
fn perplexity() {
    assert_snapshot!(help(&["perplexity"]), @"
    Measure the perplexity of a text

    Usage: bitnet perplexity [OPTIONS] --file <FILE>

    Options:
      -f, --file <FILE>     The text; `-` reads stdin
      -c, --context <N>     Tokens per window [default: 512]
          --max-tokens <N>  Score only the first N tokens [default: all]
          --json            Print one JSON document
      -q, --quiet           Print only errors on stderr
      -v, --verbose         Print settings and timings on stderr
      -h, --help            Print help

    Model:
      -m, --model <MODEL>         A GGUF file or a HuggingFace folder [default:
                                  builtin]
      -t, --threads <N>           Threads [default: as many as the system offers]
          --device <KIND>         Device: auto, cpu, vulkan, metal or dx12 [default:
                                  auto]
          --kernel <NAME>         CPU kernel, such as avx2 [default: the best]
          --pin                   Pin each thread to a processor
          --weight-bits <BITS>    Weights packed in 2.0 or 1.6 bits [default: auto]
          --head <TYPE>           Output matrix: exact or int8 [default: int8]
          --kv <TYPE>             Keys and values: auto, f32, f16, or int8 for long
                                  contexts [default: f16]
          --memory-limit <BYTES>  Maximum memory use; --gpu-memory-limit: of a GPU
          --no-cache              Pack weights anew, keep none (see `bitnet cache`)

    The text's tokens are split into windows of -c tokens without overlap, each
    preceded by BOS; every token is scored. Without a BOS, a window is preceded by
    the token before it, and the first of the text is not scored. Lower is better.
    Only numbers of models with the same tokenizer are comparable.

    Example:
      bitnet perplexity -f heldout.txt --max-tokens 4096 --head exact
    ");
}

#[test]
fn bench() {
    assert_snapshot!(help(&["bench"]), @"
    Measure speed relative to the machine's limits

    Usage: bitnet bench [OPTIONS]

    Options:
      -p, --prompt <N,…>     Prompt lengths; 0 for none [default: 512]
      -n, --generate <N,…>   Numbers of tokens to write; 0 for none [default: 128]
      -d, --depth <N,…>      Tokens of context before each test [default: 0]
      -b, --batch <N,…>      Batch size in sequences [default: 1]
      -t, --threads <N,…>    Threads [default: as many as the system offers]
      -r, --repetitions <N>  Repetitions of each row [default: 3]
          --kernels          Measure each kernel alone, without a model
          --cache            Map packed weights that are kept (`bitnet cache`)
          --breakdown        Also measure each operation in the passes of a row
          --json             Print one JSON document
      -q, --quiet            Print only errors on stderr
      -v, --verbose          Print settings and timings on stderr
      -h, --help             Print help

    Model:
      -m, --model <MODEL>         A GGUF file or a HuggingFace folder [default:
                                  builtin]
          --device <KIND>         Device: auto, cpu, vulkan, metal or dx12 [default:
                                  auto]
          --kernel <NAME>         CPU kernel, such as avx2 [default: the best]
          --pin                   Pin each thread to a processor
          --weight-bits <BITS>    Weights packed in 2.0 or 1.6 bits [default: auto]
          --head <TYPE>           Output matrix: exact or int8 [default: int8]
          --kv <TYPE>             Keys and values: auto, f32, f16, or int8 for long
                                  contexts [default: f16]
          --memory-limit <BYTES>  Maximum memory use; --gpu-memory-limit: of a GPU

    pp N is prefill of N tokens, tg N is decode of N tokens, each after a context of
    -d tokens. The limit is the machine's memory bandwidth or its int8 throughput,
    whichever takes longer; both are measured, and % is the share reached. MB is the
    peak resident memory of the row, mapped files included.
    --kernels measures each operation on every kernel of this machine, on one thread
    unless -t is given. The ceiling is the time to read as many bytes, from the
    caches if they fit, or the peak rate of the kernel's multiply instructions.
    --breakdown repeats each row and times each operation on the calling thread: the
    fastest repetition, the shares, and the time of the same work alone, where
    --kernels measures such work.
    Lists of values, such as -p 128,512, give a row for each combination.

    Examples:
      bitnet bench
      bitnet bench -m model.gguf -p 512 -n 64 -t 1,2 -r 5 --json
      bitnet bench --kernels --json     report of this machine's kernels
    ");
}

#[test]
fn convert() {
    assert_snapshot!(help(&["convert"]), @"
    Convert a model to another format

    Usage: bitnet convert [OPTIONS] <IN> <OUT>

    Arguments:
      <IN>   A GGUF file, a HuggingFace folder, or `builtin`
      <OUT>  The file or folder to write

    Options:
          --to <FORMAT>  The format of OUT [default: gguf-i2_s] [possible values:
                         gguf-i2_s, gguf-tq2_0, gguf-tq1_0, hf-packed]
          --head <TYPE>  Type of embedding and output matrix [default: as they are]
                         [possible values: f32, f16, bf16, q8_0, q6_k]
          --force        Replace OUT if it exists
          --json         Print one JSON document
      -q, --quiet        Print only errors on stderr
      -v, --verbose      Print settings and timings on stderr
      -h, --help         Print help

    Every trit and scale is preserved; in GGUF files, so are dense linear layers and
    ternary embeddings. OUT appears only when it is complete.

    Formats of --to:
      gguf-i2_s   one file, 2 bits per weight, for bitnet.cpp
      gguf-tq2_0  one file, 2.06 bits per weight, for llama.cpp
      gguf-tq1_0  one file, 1.69 bits per weight, for llama.cpp
      hf-packed   a HuggingFace folder, 2 bits per weight, for transformers

    Examples:
      bitnet convert bitnet-b1.58-2B-4T/ model.gguf --head q6_k
      bitnet convert model.gguf smaller.gguf --to gguf-tq1_0
      bitnet convert model.gguf folder/ --to hf-packed
    ");
}

#[test]
fn pull() {
    assert_snapshot!(help(&["pull"]), @r#"
    Download a model

    Usage: bitnet pull [OPTIONS] <REPO>

    Arguments:
      <REPO>  The repository, OWNER/NAME

    Options:
          --file <NAME>          This file or folder of it [default: what a model
                                 needs]
          --revision <REVISION>  This branch, tag or commit [default: main]
          --json                 Print one JSON document
      -q, --quiet                Print only errors on stderr
      -v, --verbose              Print settings and timings on stderr
      -h, --help                 Print help

    Files are stored in the cache of the hub's own programs (HF_HUB_CACHE, HF_HOME);
    -m REPO loads them from there. An interrupted download is resumed, and every
    file's hash is verified.

    REPO is OWNER/NAME, as on the hub's pages. OWNER/NAME@REVISION is a branch, a
    tag, a commit, or refs/pr/1; OWNER/NAME:FILE selects one of several models, by
    file or type, such as Q8_0. -m takes the same names. Of several GGUF files the
    one in I2_S, TQ2_0 or TQ1_0 is selected, else the closest to the original;
    without GGUF files, the SafeTensors with their configuration and tokenizer.

    Environment variables, as in the hub's own programs:
      HF_ENDPOINT                  URL of another hub
      HF_TOKEN, HF_TOKEN_PATH      access token; default: that of `hf auth login`
      HF_HUB_OFFLINE=1             make no network requests
      SSL_CERT_FILE, SSL_CERT_DIR  trusted certificates, instead of the system's
      HTTPS_PROXY, NO_PROXY        a proxy, and hosts to access without it

    Examples:
      bitnet pull microsoft/bitnet-b1.58-2B-4T-gguf
      bitnet run -m microsoft/bitnet-b1.58-2B-4T-gguf "The capital of France is"
      bitnet pull tiiuae/Falcon3-1B-Instruct-1.58bit@main
    "#);
}

#[test]
fn cache() {
    assert_snapshot!(help(&["cache"]), @"
    Show or remove packed weights that are kept for a faster start

    Usage: bitnet cache [OPTIONS] <COMMAND>

    Commands:
      list   Show the files, the one used last first
      clear  Remove files: all, or those selected
      help   Print this message or the help of the given subcommand(s)

    Options:
      -q, --quiet    Print only errors on stderr
      -v, --verbose  Print settings and timings on stderr
      -h, --help     Print help

    Commands that load a large model keep its weights as the kernels read them, in
    a file that the next start maps instead of packing them again. That changes no
    result. A file is used as long as the model's files, its options and this
    version of the program are the same, and is checked at every start. It takes
    about as much space as the model; --no-cache keeps none.

    Environment variables:
      BITNET_CACHE_DIR        folder [default: bitnet/weights in the user's cache]
      BITNET_CACHE_SIZE       maximum size of all files; those not used for longest
                              are removed first [default: 8GiB]
      BITNET_CACHE_MIN_MODEL  smaller models are not kept [default: 32MiB]

    Examples:
      bitnet cache list
      bitnet cache clear --outdated
      bitnet cache clear -m model.gguf
    ");
    assert_snapshot!(help(&["cache", "clear"]), @"
    Remove files: all, or those selected

    Usage: bitnet cache clear [OPTIONS]

    Options:
      -m, --model <PATH>  Only those of this model, or of all in this folder
          --outdated      Only those that no model is loaded from any more
          --json          Print one JSON document
      -q, --quiet         Print only errors on stderr
      -v, --verbose       Print settings and timings on stderr
      -h, --help          Print help
    ");
}

#[test]
fn completions() {
    assert_snapshot!(help(&["completions"]), @"
    Print a shell completion script

    Usage: bitnet completions [OPTIONS] <SHELL>

    Arguments:
      <SHELL>  The shell [possible values: bash, elvish, fish, powershell, zsh]

    Options:
      -q, --quiet    Print only errors on stderr
      -v, --verbose  Print settings and timings on stderr
      -h, --help     Print help

    Examples:
      bitnet completions bash > ~/.local/share/bash-completion/completions/bitnet
      bitnet completions fish > ~/.config/fish/completions/bitnet.fish
    ");
}

#[test]
fn man() {
    assert_snapshot!(help(&["man"]), @"
    Print the manual page, or write a page for each command

    Usage: bitnet man [OPTIONS] [FOLDER]

    Arguments:
      [FOLDER]  Folder for bitnet.1, bitnet-run.1 and so on, which are replaced

    Options:
      -q, --quiet    Print only errors on stderr
      -v, --verbose  Print settings and timings on stderr
      -h, --help     Print help

    Examples:
      bitnet man | man -l -
      bitnet man ~/.local/share/man/man1
    ");
}

#[test]
fn each_command_has_a_manual_page() {
    let page = bitnet(&["man"]).quietly();
    assert!(page.contains(".TH bitnet 1"), "{page}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    assert_eq!(bitnet(&["man", path]).quietly(), "");
    let written = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(written("bitnet.1"), page);
    for command in ["run", "chat", "serve", "convert", "man"] {
        assert!(
            page.contains(&format!("bitnet\\-{command}(1)")),
            "{command}"
        );
        assert!(written(&format!("bitnet-{command}.1")).contains(".SH SYNOPSIS"));
    }
    assert!(written("bitnet-run.1").contains("\\-\\-max\\-tokens"));
    let nowhere = folder.path().join("missing");
    let refused = bitnet(&["man", nowhere.to_str().unwrap()]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("failed to write into"));
}

#[test]
fn completions_know_every_command() {
    let commands = [
        "run",
        "inspect",
        "devices",
        "tokenize",
        "logits",
        "perplexity",
        "bench",
        "convert",
        "completions",
    ];
    for shell in ["bash", "zsh", "fish"] {
        let script = bitnet(&["completions", shell]).quietly();
        for command in commands {
            assert!(script.contains(command), "{command} in {shell}");
        }
        assert!(script.contains("max-tokens"), "options in {shell}");
    }
}

#[test]
fn no_command_shows_the_help_and_fails() {
    let run = bitnet(&[]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""));
    assert_eq!(run.stderr, help(&[]));
}
