// The demo page: loads a model, lets it continue a prompt, and shows how to check the result.
import { Model } from "./bitnet-wasm/browser.js";

const $ = (id) => document.getElementById(id);

let model = null;
/** Ends the load or the text that is under way. */
let work = new AbortController();

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;

function show(id, text) {
  $(id).textContent = text;
}

function showError(id, error) {
  $(id).hidden = !error;
  show(id, error ? error.message : "");
}

function showProgress({ phase, loaded, total }) {
  const bar = $("progress");
  bar.hidden = false;
  if (total === undefined) {
    bar.removeAttribute("value");
  } else {
    bar.max = total;
    bar.value = loaded;
  }
  const what = { download: "Downloading", cache: "Reading from this browser's storage", read: "Reading", pack: "Preparing" }[phase];
  const count = phase === "pack" ? `layer ${loaded} of ${total}` : `${megabytes(loaded)}${total === undefined ? "" : ` of ${megabytes(total)}`}`;
  show("status", `${what}: ${count}`);
}

/** Loads a model in place of the last one. Returns whether it is there. */
async function load(source, name) {
  work.abort();
  work = new AbortController();
  const { signal } = work;
  model?.free();
  model = null;
  $("write").disabled = true;
  $("builtin").hidden = source === "builtin";
  $("proof").hidden = true;
  showError("model-error", null);
  showError("error", null);
  for (const id of ["model-info", "given", "written", "speed"]) show(id, "");
  show("model-name", name);
  const phases = new Set();
  const start = performance.now();
  try {
    const loaded = await Model.load(source, {
      signal,
      onProgress: (progress) => {
        phases.add(progress.phase);
        if (!signal.aborted) showProgress(progress);
      },
    });
    if (signal.aborted) {
      loaded.free();
      return false;
    }
    model = loaded;
  } catch (error) {
    if (!signal.aborted) {
      show("status", "");
      showError("model-error", error);
    }
    return false;
  } finally {
    if (!signal.aborted) $("progress").hidden = true;
  }
  const { architecture, contextLength, threads } = model.info;
  const many = threads === 1 ? "1 thread" : `${threads} threads`;
  show("model-info", `· ${architecture}, context ${contextLength}, ${many}`);
  const from = phases.has("download") ? "from the network" : phases.has("cache") ? "from this browser's storage" : "from the file";
  show("status", `Loaded ${from} in ${((performance.now() - start) / 1000).toFixed(1)} s`);
  $("write").disabled = false;
  return true;
}

/** Returns a text as one word of a shell. */
function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function command(name, prompt, { temperature, seed, maxTokens }) {
  const file = name === null ? "" : `-m ${quoted(name)} `;
  return `bitnet run ${file}--temp ${temperature} --seed ${seed} -n ${maxTokens} --receipt receipt.json ${quoted(prompt)}`;
}

async function write() {
  const prompt = $("prompt").value;
  const options = {
    temperature: $("temperature").valueAsNumber,
    seed: $("seed").valueAsNumber,
    maxTokens: $("tokens").valueAsNumber,
  };
  const name = $("builtin").hidden ? null : $("model-name").textContent;
  work = new AbortController();
  const { signal } = work;
  $("write").disabled = true;
  $("stop").disabled = false;
  $("proof").hidden = true;
  $("text").setAttribute("aria-busy", "true");
  showError("error", null);
  show("given", prompt);
  show("written", "");
  show("speed", "");
  try {
    const generation = model.generate(prompt, { ...options, signal });
    for await (const piece of generation) $("written").append(piece);
    const { generatedTokens, seconds, promptTokens, digest } = await generation.result;
    // The first token comes with the prompt.
    const rate = seconds.decode > 0 ? `${((generatedTokens - 1) / seconds.decode).toFixed(1)} tokens a second, ` : "";
    show("speed", `${rate}${generatedTokens} tokens after ${promptTokens} of the prompt, the first in ${seconds.prompt.toFixed(2)} s`);
    show("digest", digest);
    show("command", command(name, prompt, options));
    $("proof").hidden = false;
  } catch (error) {
    if (signal.aborted) show("speed", "Stopped");
    else showError("error", error);
  } finally {
    $("text").setAttribute("aria-busy", "false");
    $("stop").disabled = true;
    $("write").disabled = model === null;
  }
}

function open(files) {
  if (files.length === 0) return;
  load([...files], files[0].name);
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  write();
});
$("stop").addEventListener("click", () => work.abort());
$("file").addEventListener("change", () => {
  open($("file").files);
  $("file").value = "";
});
$("builtin").addEventListener("click", () => load("builtin", "Built-in storyteller"));
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  open(event.dataTransfer.files);
});

if (await load("builtin", "Built-in storyteller")) await write();
