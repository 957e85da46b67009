// The demo page in Chromium, served with the headers for threads and without.
// CHROMIUM names the browser's program, by default /usr/bin/chromium. SCREENSHOTS names a
// folder for pictures of the page.
import assert from "node:assert/strict";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, describe, test } from "node:test";
import { chromium } from "playwright-core";
import { split } from "./split-gguf.mjs";
import { BITNET, ROOT, STORYTELLER, WEB, bitnet, native, run, serve } from "./support.mjs";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const AXE = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PROMPT = "Once upon a time there was a";
const MODEL = "/bitnet-wasm/storyteller.gguf";

let browser, folder, other;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "bitnet-wasm-"));
  other = join(folder, "tiny one.gguf");
  await bitnet("convert", "--quiet", join(ROOT, "models/storyteller-tiny"), other);
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS });
});
after(async () => {
  await browser?.close();
  await rm(folder, { recursive: true });
});

for (const isIsolated of [true, false]) {
  describe(isIsolated ? "on an isolated page" : "on any page", { timeout: 300_000 }, () => {
    let server, context, page, problems;

    before(async () => { server = await serve(WEB, { isIsolated }); });
    after(() => server.stop());

    /** Opens the page in a fresh profile; every test also fails on a script error and on a request to elsewhere. */
    async function visit(options = {}, { url } = server) {
      context = await browser.newContext({ viewport: { width: 1000, height: 900 }, ...options });
      context.setDefaultTimeout(60_000);
      problems = [];
      page = await context.newPage();
      page.on("pageerror", (error) => problems.push(String(error)));
      page.on("console", (message) => message.type() === "error" && !/status of 404/.test(message.text()) && problems.push(message.text()));
      page.on("request", (request) => /^https?:/.test(request.url()) && !request.url().startsWith(url) && problems.push(request.url()));
      await page.goto(url);
    }
    afterEach(async () => {
      await context?.close();
      assert.deepEqual(problems, []);
    });

    const written = () => page.locator("#written").innerText();
    const finished = () => page.locator("#proof").waitFor();
    const error = async (id) => {
      await page.locator(id).waitFor();
      return page.locator(id).innerText();
    };
    const shot = async (name) => {
      const folder = process.env.SCREENSHOTS;
      if (folder) await page.screenshot({ path: join(folder, `${name}${isIsolated ? "" : "-one-thread"}.png`), fullPage: true });
    };
    async function checkAxe() {
      await page.evaluate(`${AXE}; undefined`);
      const { violations } = await page.evaluate(() => window.axe.run());
      assert.deepEqual(violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(" | ")}`), []);
    }

    test("the built-in model writes at once, and its text and digest are the native program's", async () => {
      await visit();
      await finished();
      const expected = await native(PROMPT, "--temp", "0.7", "--seed", "1", "-n", "128");
      assert.equal((await page.locator("#written").textContent()), expected.text);
      assert.match(await page.locator("#speed").innerText(), /^\d+\.\d tokens a second, 128 tokens after 9 of the prompt/);
      assert.match(await page.locator("#digest").innerText(), /^[0-9a-f]{64}$/);
      const processors = await page.evaluate(() => navigator.hardwareConcurrency);
      const several = isIsolated && processors > 1;
      assert.match(await page.locator("#model-info").innerText(), several ? /, [2-8] threads$/ : /, 1 thread$/);
      await checkAxe();
      await shot("wide");
    });

    test("typed prompts are continued, with the digest of the native program's receipt", async () => {
      await visit();
      await finished();
      await page.fill("#prompt", "The king's son said: \"I");
      await page.fill("#seed", "7");
      await page.fill("#tokens", "24");
      // By keyboard alone.
      await page.locator("#tokens").press("Enter");
      // The proof of the text before is hidden at once.
      await finished();
      const command = await page.locator("#command").textContent();
      assert.equal(command, "bitnet run --temp 0.7 --seed 7 -n 24 --receipt receipt.json 'The king'\\''s son said: \"I'");
      const digest = await nativeDigest(command);
      assert.equal(await page.locator("#digest").innerText(), digest);
    });

    test("a text streams and stops, and the page answers meanwhile", async () => {
      await visit();
      await finished();
      await page.fill("#tokens", "100000");
      await page.click("#write");
      const lengths = [];
      for (let i = 0; i < 4; i += 1) {
        await page.waitForFunction((n) => document.querySelector("#written").textContent.length > n, lengths.at(-1) ?? 0);
        lengths.push((await page.locator("#written").textContent()).length);
      }
      // While it computes, the page's own thread is free.
      const delay = await page.evaluate(async () => {
        let worst = 0;
        for (let i = 0; i < 20; i += 1) {
          const start = performance.now();
          await new Promise((resolve) => setTimeout(resolve, 5));
          worst = Math.max(worst, performance.now() - start);
        }
        return worst;
      });
      assert.ok(delay < 1000, `${delay} ms`);
      await page.click("#stop");
      await page.locator("#write:enabled").waitFor();
      const text = await page.locator("#written").textContent();
      await page.waitForTimeout(300);
      assert.equal(await page.locator("#written").textContent(), text);
      assert.equal(await page.locator("#speed").innerText(), "Stopped");
    });

    test("after a reload the model comes from the browser's storage", async () => {
      await visit();
      await finished();
      assert.match(await page.locator("#status").innerText(), /^Loaded from the network/);
      const text = await written();
      await page.reload();
      await finished();
      assert.match(await page.locator("#status").innerText(), /^Loaded from this browser's storage/);
      assert.equal(await written(), text);
    });

    test("what is stored and broken is noticed and fetched again", async () => {
      await visit();
      await finished();
      for (const how of ["a byte is another", "the end is missing", "the entry is nonsense"]) {
        await page.evaluate(async (how) => {
          const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle("bitnet-wasm");
          for await (const [name, handle] of folder) {
            if (name.endsWith(".json") !== (how === "the entry is nonsense")) continue;
            const { size } = await handle.getFile();
            const stream = await handle.createWritable({ keepExistingData: true });
            if (how === "the end is missing") await stream.truncate(size - 1000);
            else await stream.write({ type: "write", position: Math.floor(size / 2), data: "nonsense" });
            await stream.close();
          }
        }, how);
        const text = await written();
        const downloads = () => server.requests.filter((request) => request === `GET ${MODEL}`).length;
        const before = downloads();
        await page.reload();
        await finished();
        assert.match(await page.locator("#status").innerText(), /^Loaded from the network/, how);
        assert.equal(await written(), text);
        assert.equal(downloads(), before + 1, how);
        await page.reload();
        await finished();
        assert.match(await page.locator("#status").innerText(), /^Loaded from this browser's storage/, how);
        assert.equal(downloads(), before + 1, how);
      }
    });

    test("a server that has another file is asked for it", async () => {
      const bytes = await readFile(STORYTELLER);
      let version = 1;
      let downloads = 0;
      const changing = await serve(WEB, {
        isIsolated,
        answer(path, request, response) {
          if (path !== MODEL) return false;
          response.writeHead(200, { "Content-Length": bytes.length, ETag: `"${version}"` });
          downloads += request.method === "GET";
          response.end(bytes);
          return true;
        },
      });
      try {
        await visit({}, changing);
        await finished();
        version = 2;
        await page.reload();
        await finished();
        assert.match(await page.locator("#status").innerText(), /^Loaded from the network/);
        assert.equal(downloads, 2);
      } finally {
        await context.close();
        await changing.stop();
      }
    });

    test("an own model is opened: chosen, dropped, and split", async () => {
      await visit();
      await finished();
      await page.setInputFiles("#file", other);
      await page.waitForFunction(() => /^Loaded from the file/.test(document.querySelector("#status").textContent));
      assert.equal(await page.locator("#model-name").innerText(), "tiny one.gguf");
      await page.fill("#prompt", "The king");
      await page.fill("#tokens", "12");
      await page.click("#write");
      await finished();
      const expected = await native("The king", "-m", other, "--temp", "0.7", "--seed", "1", "-n", "12");
      assert.equal(await page.locator("#written").textContent(), expected.text);
      assert.match(await page.locator("#command").textContent(), /^bitnet run -m 'tiny one.gguf' /);

      const parts = split(await readFile(STORYTELLER), 2);
      const transfer = await page.evaluateHandle((parts) => {
        const transfer = new DataTransfer();
        for (const [i, part] of [...parts.entries()].reverse()) {
          const bytes = Uint8Array.from(atob(part), (c) => c.charCodeAt(0));
          transfer.items.add(new File([bytes], `s-0000${i + 1}-of-00002.gguf`));
        }
        return transfer;
      }, parts.map((part) => part.toString("base64")));
      await page.dispatchEvent("body", "drop", { dataTransfer: transfer });
      await page.waitForFunction(() => /^s-/.test(document.querySelector("#model-name").textContent) && /^Loaded/.test(document.querySelector("#status").textContent));
      await page.fill("#prompt", PROMPT);
      await page.click("#write");
      await finished();
      const story = await native(PROMPT, "--temp", "0.7", "--seed", "1", "-n", "12");
      assert.equal(await page.locator("#written").textContent(), story.text);

      await page.click("#builtin");
      await page.waitForFunction(() => /Built-in/.test(document.querySelector("#model-name").textContent) && /^Loaded/.test(document.querySelector("#status").textContent));
    });

    test("errors can be read, and the page goes on", async () => {
      await visit();
      await finished();
      await page.setInputFiles("#file", { name: "notes.gguf", mimeType: "", buffer: Buffer.from("no model at all, but text") });
      assert.equal(await error("#model-error"), 'notes.gguf: not a readable GGUF file: it begins with "no m" instead of "GGUF"');
      assert.ok(await page.locator("#write").isDisabled());
      await shot("error");
      await checkAxe();
      await page.click("#builtin");
      await page.locator("#write:enabled").waitFor();
      await page.fill("#prompt", "");
      await page.click("#write");
      assert.match(await error("#error"), /prompt is empty/);
      assert.ok(await page.locator("#model-error").isHidden());
      await page.fill("#prompt", PROMPT);
      await page.click("#write");
      await finished();
      assert.ok(await page.locator("#error").isHidden());
    });

    test("it fits a phone, in light and dark", async () => {
      for (const colorScheme of ["light", "dark"]) {
        await visit({ viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, colorScheme });
        await finished();
        const { width, scroll } = await page.evaluate(() => ({ width: document.documentElement.clientWidth, scroll: document.documentElement.scrollWidth }));
        assert.ok(scroll <= width, `${scroll} > ${width}`);
        await checkAxe();
        await shot(`phone-${colorScheme}`);
        await context.close();
      }
    });

    test("everything is reached by keyboard, in order", async () => {
      await visit();
      await finished();
      await page.locator("h1").click();
      const reached = [];
      for (let i = 0; i < 8; i += 1) {
        await page.keyboard.press("Tab");
        reached.push(await page.evaluate(() => document.activeElement.id || document.activeElement.tagName));
      }
      assert.deepEqual(reached.slice(0, 6), ["file", "prompt", "temperature", "seed", "tokens", "write"]);
      assert.equal(reached[6], "PRE");
    });
  });
}

/** Runs the command that the page shows and returns the digest in its receipt. */
async function nativeDigest(command) {
  await run("bash", ["-c", command.replace(/^bitnet/, JSON.stringify(BITNET))], { cwd: folder });
  return JSON.parse(await readFile(join(folder, "receipt.json"), "utf8")).digest;
}
