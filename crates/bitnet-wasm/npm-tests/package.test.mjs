// The package as npm packs and installs it.
import assert from "node:assert/strict";
import { cp, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { test } from "node:test";
import { PACKAGE, run } from "./support.mjs";

const HERE = fileURLToPath(new URL(".", import.meta.url));

test("the package has what it needs and nothing else", async () => {
  const { stdout } = await run("npm", ["pack", "--dry-run", "--json"], { cwd: PACKAGE });
  const [{ files, size }] = JSON.parse(stdout);
  const names = files.map(({ path }) => path).sort();
  assert.deepEqual(names, [
    "LICENSE-APACHE", "LICENSE-MIT", "README.md",
    "browser-cache.js", "browser-thread.js", "browser-worker.js", "browser.js",
    "engine-worker.js", "error.js", "files.js", "index.d.ts", "model.js",
    "node-thread.js", "node-worker.js", "node.js", "package.json",
    "single/engine.js", "single/engine_bg.wasm", "source.js", "storyteller.gguf",
    "threads/engine.js", "threads/engine_bg.wasm",
  ]);
  assert.ok(size < 20e6, `${size} bytes`);
  for (const name of names.filter((name) => name.endsWith(".js"))) {
    // Everything is in the package: nothing is fetched from elsewhere.
    assert.doesNotMatch(await readFile(join(PACKAGE, name), "utf8"), /["'`]https?:\/\//, name);
  }
});

test("a project that installs the package passes a strict type check, and runs", { timeout: 300_000 }, async () => {
  const project = await mkdtemp(join(tmpdir(), "bitnet-wasm-consumer-"));
  try {
    await run("npm", ["pack", "--pack-destination", project], { cwd: PACKAGE });
    await cp(join(HERE, "consumer"), project, { recursive: true });
    await writeFile(join(project, "package.json"), '{ "private": true, "type": "module" }');
    const { version } = JSON.parse(await readFile(join(PACKAGE, "package.json"), "utf8"));
    await run("npm", ["install", "--no-audit", "--no-fund", "--offline", `./bitnet-wasm-${version}.tgz`], { cwd: project });
    await run(process.execPath, [join(HERE, "node_modules/typescript/bin/tsc"), "-p", project]);
    const { stdout } = await run(process.execPath, ["index.js"], { cwd: project });
    const lines = stdout.trim().split("\n");
    assert.ok(lines.includes("bad-argument"), stdout);
    const last = lines.find((line) => line.startsWith("{"));
    assert.deepEqual(JSON.parse(last), {
      text: " great noise of shouting, and",
      ids: JSON.parse(last).ids,
      lengths: [512, 2],
      chat: true,
      phases: ["read", "pack"],
    });
    assert.equal(JSON.parse(last).ids.length, 6);
  } finally {
    await rm(project, { recursive: true });
  }
});
