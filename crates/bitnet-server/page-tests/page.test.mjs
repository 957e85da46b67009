// The page in a real browser: npm ci, then npm test for the mock, or BITNET_SERVER_URL=http://127.0.0.1:8080/ npm test for a server.
// CHROMIUM names the browser's program, by default /usr/bin/chromium.
import assert from "node:assert/strict";
import { after, afterEach, before, describe, test } from "node:test";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";
import { startMock } from "./mock.mjs";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const AXE = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const SERVER = process.env.BITNET_SERVER_URL;
const TARGETS = SERVER ? [{ name: SERVER }] : [{ name: "a story model", isChat: false }, { name: "a chat model", isChat: true }];
const PROMPT = "Once upon a time there was a";

let browser;
before(async () => { browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: FLAGS }); });
after(() => browser.close());

for (const target of TARGETS) {
  describe(target.name, { timeout: 180_000 }, () => {
    let url, mock, mode, context, problems;

    before(async () => {
      mock = SERVER ? null : await startMock({ isChat: target.isChat, delay: 8 });
      url = new URL(SERVER ?? mock.url).href;
      const { data } = await (await fetch(new URL("v1/models", url))).json();
      mode = data[0].bitnet.chat_template && !data[0].bitnet.builtin ? "chat" : "completion";
    });
    after(() => mock?.stop());

    /** Opens the page in a fresh profile; every test also fails on a script error or a violation of the policy. */
    async function visit({ prepare, ...options } = {}) {
      context = await browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
      context.setDefaultTimeout(15_000);
      // A real model might end its text after a token.
      if (SERVER) await context.route(endpoint(), (route) => route.continue({ postData: { ...route.request().postDataJSON(), ignore_eos: true } }));
      problems = [];
      const page = await context.newPage();
      page.on("pageerror", (error) => problems.push(String(error)));
      page.on("console", (message) => /Content.Security.Policy/i.test(message.text()) && problems.push(message.text()));
      await page.exposeFunction("reportViolation", (text) => problems.push(text));
      await page.addInitScript(() => document.addEventListener("securitypolicyviolation", (event) => window.reportViolation(`${event.violatedDirective} ${event.blockedURI}`)));
      await prepare?.(page);
      await page.goto(url);
      return page;
    }
    afterEach(async () => {
      await context?.close();
      assert.deepEqual(problems ?? [], []);
    });

    const send = async (page, text = PROMPT) => {
      await page.locator("#send:enabled").waitFor();
      await page.fill("#input", text);
      await page.press("#input", "Enter");
    };
    const finished = (page) => page.waitForFunction(() => document.querySelector("#thread [aria-busy]") && !document.querySelector("#thread [aria-busy=true]"));
    const ask = async (page, text) => {
      await send(page, text);
      await finished(page);
    };
    const setMaxTokens = (page, count) => page.evaluate((value) => {
      const field = document.querySelector("[name=max_tokens]");
      field.value = value;
      field.dispatchEvent(new Event("input", { bubbles: true }));
    }, String(count));
    const modelText = (page) => page.locator(".assistant .text, .theirs").last().innerText();
    const endpoint = () => (mode === "chat" ? "**/v1/chat/completions" : "**/v1/completions");
    const tool = (page, name) => page.locator(".tools").last().getByRole("button", { name, exact: true });
    const sse = (...chunks) => ({ status: 200, contentType: "text/event-stream", body: chunks.map((chunk) => `data: ${typeof chunk === "string" ? chunk : JSON.stringify(chunk)}\n\n`).join("") });
    const piece = (text, finish = null) => ({ choices: [{ index: 0, text, delta: { content: text }, finish_reason: finish }] });
    const refusal = (status, message, headers) => ({ status, headers, json: { error: { message, type: "test_error", param: null, code: "some_code" } } });

    async function checkAxe(page) {
      await page.evaluate(`${AXE}; undefined`);
      const { violations } = await page.evaluate(() => window.axe.run());
      const grave = violations.filter(({ impact }) => ["serious", "critical"].includes(impact));
      assert.deepEqual(grave.map(({ id, nodes }) => `${id}: ${nodes.map(({ html, any }) => `${html} ${any[0]?.message ?? ""}`).join(" | ")}`), []);
    }

    test("the policy forbids everything from elsewhere, and inline code", async () => {
      const response = await fetch(url);
      const policy = response.headers.get("content-security-policy") ?? "";
      for (const part of ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"]) assert.ok(policy.includes(part), part);
      assert.doesNotMatch(policy, /unsafe|\*|https?:/);
    });

    test("begins in the mode that suits the model, says why, and shows its facts", async () => {
      const page = await visit();
      await page.locator(".welcome h2").waitFor();
      assert.equal(await page.locator("[name=mode]:checked").getAttribute("value"), mode);
      assert.equal(await page.locator(".why", { hasText: "and does not answer" }).count(), mode === "completion" ? 1 : 0);
      for (const fact of ["Parameters", "Context", "Vocabulary", "Weights"]) await page.locator("#model").getByText(fact).waitFor();
    });

    test("shows the text while it arrives, then its speed and its place in the context", async () => {
      const page = await visit();
      await page.locator("#send:enabled").waitFor();
      await setMaxTokens(page, 400);
      await page.evaluate(() => {
        window.lengths = new Set();
        new MutationObserver(() => window.lengths.add(document.querySelector(".theirs, .assistant .text")?.textContent.length ?? 0))
          .observe(document.querySelector("#thread"), { subtree: true, childList: true, characterData: true });
      });
      await ask(page);
      assert.ok((await page.evaluate(() => window.lengths.size)) > 3, "the text grew in steps");
      assert.match(await page.locator(".meta").last().innerText(), /\d tokens · [\d,.]+ tokens\/s .* seed \d+/s);
      assert.match(await page.locator("#used").innerText(), /^\d+ of [\d,]+ tokens of context$/);
      assert.notEqual(await page.locator("#spoken").textContent(), "");
    });

    test("Esc and the button stop, and keep what was written", async () => {
      const page = await visit();
      await page.locator("#send:enabled").waitFor();
      await setMaxTokens(page, 900);
      for (const stop of [() => page.keyboard.press("Escape"), async () => { await page.waitForTimeout(450); await page.click("#send"); }].slice(0, SERVER ? 1 : 2)) {
        await send(page);
        await page.waitForFunction(() => [...document.querySelectorAll(".theirs, .assistant .text")].at(-1)?.textContent.length > 10);
        await stop();
        await finished(page);
        assert.match(await page.locator(".meta").last().innerText(), /stopped by you/);
        assert.ok((await modelText(page)).length > 5);
        assert.notEqual(await page.locator("#send").innerText(), "Stop");
      }
    });

    test("a refusal shows the server's words and its wait, and can be tried again", async () => {
      const page = await visit();
      await page.route(endpoint(), (route) => route.fulfill(refusal(429, "the queue of 32 is full", { "retry-after": "12" })));
      await send(page);
      const card = page.getByRole("alert");
      await card.getByText("the queue of 32 is full").waitFor();
      await card.getByText(/wait 1[0-2] s/).waitFor();
      await page.unroute(endpoint());
      await card.getByRole("button", { name: "Try again" }).click();
      await finished(page);
      assert.equal(await page.getByRole("alert").count(), 0);
      assert.ok((await modelText(page)).length > 5);
    });

    test("an error in the middle of a text keeps the text; a failed retry repeats the retry", async () => {
      const page = await visit();
      await page.route(endpoint(), (route) => route.fulfill(sse(piece("Half a sen"), { error: { message: "the model was unloaded", type: "server_error", param: null, code: null } })));
      await send(page);
      await page.getByRole("alert").getByText("the model was unloaded").waitFor();
      assert.match(await modelText(page), /^Half a sen$/);
      await page.unroute(endpoint());
      await page.route(endpoint(), (route) => route.fulfill(sse(piece("Half again"))));
      await page.getByRole("button", { name: "Try again" }).click();
      await page.getByRole("alert").getByText("ended before").waitFor();
      await page.unroute(endpoint());
      await page.getByRole("button", { name: "Try again" }).click();
      await page.getByText("3 of 3").waitFor();
      await finished(page);
      assert.equal(await page.locator("article.completion, article.assistant").count(), 1);
    });

    test("asks for an API key only after a 401, and sends it", async () => {
      const page = await visit();
      assert.equal(await page.locator("#key").count(), 0);
      let key;
      await page.route(endpoint(), (route) => {
        key = route.request().headers().authorization;
        return key ? route.fulfill(sse(piece("Welcome.", "stop"), "[DONE]")) : route.fulfill(refusal(401, "no API key"));
      });
      await send(page);
      await page.getByLabel("API key", { exact: true }).fill("secret-1");
      await page.keyboard.press("Enter");
      await page.getByText("Welcome.").first().waitFor();
      assert.equal(key, "Bearer secret-1");
      assert.equal(await page.evaluate(() => JSON.stringify(localStorage).includes("secret-1")), false);
    });

    test("waits for a server that loads its model", async () => {
      let calls = 0;
      const page = await visit({ prepare: (page) => page.route("**/v1/models", (route) => (calls++ ? route.continue() : route.fulfill(refusal(503, "loading")))) });
      await page.getByText("is loading its model").waitFor();
      await page.locator("#send:enabled").waitFor();
    });

    test("sends the settings that are set, and always a seed", async () => {
      const page = await visit();
      await page.locator("#send:enabled").waitFor();
      await page.click("#open-settings");
      await page.fill("[name=temperature]", "0.5");
      await page.fill("[name=top_k]", "40");
      await page.fill("[name=max_tokens]", "12");
      if (mode === "chat") await page.fill("#system", "Answer briefly.");
      const [request] = await Promise.all([page.waitForRequest(endpoint()), send(page)]);
      const { seed, model, messages, prompt, ignore_eos: added, ...rest } = request.postDataJSON();
      assert.equal(added, SERVER && true);
      assert.deepEqual(rest, { temperature: 0.5, top_k: 40, max_tokens: 12, stream: true, stream_options: { include_usage: true } });
      assert.ok(Number.isInteger(seed) && model);
      if (mode === "chat") assert.deepEqual(messages, [{ role: "system", content: "Answer briefly." }, { role: "user", content: PROMPT }]);
      else assert.equal(prompt, PROMPT);
      await finished(page);
      assert.match(await page.locator(".meta").last().innerText(), /12 tokens .*ended at max tokens/s);
    });

    test("a reload keeps the conversation and its settings", async () => {
      const page = await visit();
      await ask(page);
      const text = await modelText(page);
      await page.reload();
      await page.locator("#send:enabled").waitFor();
      assert.equal(await modelText(page), text);
      assert.equal(await page.locator("#list [aria-current]").innerText(), PROMPT);
    });

    test("several conversations write side by side, and each keeps its own text", async () => {
      const page = await visit();
      await send(page, "The first one");
      await page.locator("#list a").waitFor();
      await page.keyboard.press("Alt+KeyN");
      await ask(page, "The second one");
      assert.equal(await page.locator("#list a").count(), 2);
      const second = await modelText(page);
      await page.locator("#list").getByText("The first one").click();
      await finished(page);
      assert.match(await page.locator(".sheet, .user .text").first().innerText(), /^The first one/);
      assert.ok((await modelText(page)).length > 5);
      await page.goBack();
      assert.match(await page.locator(".sheet, .user .text").first().innerText(), /^The second one/);
      assert.equal(await modelText(page), second);
    });

    test("retry adds a version, and both stay", async () => {
      const page = await visit();
      await ask(page);
      const first = await modelText(page);
      await tool(page, "Retry").click();
      await page.getByText("2 of 2").waitFor();
      await finished(page);
      await page.getByRole("button", { name: "Previous version" }).click();
      await page.getByText("1 of 2").waitFor();
      assert.equal(await modelText(page), first);
    });

    test("an edited text takes the place of the old one", async () => {
      const page = await visit();
      await ask(page);
      await page.press("#input", "ArrowUp");
      await page.locator(".edit textarea").fill("The old house was");
      await page.keyboard.press(mode === "chat" ? "Enter" : "Control+Enter");
      await page.locator(".edit").waitFor({ state: "detached" });
      if (mode === "chat") {
        await finished(page);
        assert.equal(await page.locator(".user .text").innerText(), "The old house was");
        assert.equal(await page.locator(".assistant").count(), 1);
      } else {
        assert.equal(await page.locator(".sheet").innerText(), "The old house was");
        await page.locator("#input").press("Enter");
        await finished(page);
        assert.match(await page.locator(".sheet").innerText(), /^The old house was./s);
      }
    });

    test("probabilities come on demand for a finished text, by keyboard too", async () => {
      const page = await visit();
      await ask(page);
      const kept = () => page.evaluate(() => JSON.parse(localStorage.getItem(Object.keys(localStorage).find((key) => key.startsWith("bitnet.conversation.")))).messages[1].variants.map(({ text }) => text));
      const texts = await kept();
      await tool(page, "Probabilities").click();
      await page.locator(".token").first().waitFor();
      await finished(page);
      assert.deepEqual(await kept(), texts, "the seed brought the same text, so there is still one version");
      const joined = await page.locator(".tokens").textContent();
      if (!joined.includes("\ufffd")) assert.equal(joined, texts[0]); // a character may be spread over tokens
      await page.locator(".token").first().focus();
      await page.keyboard.press("ArrowRight");
      const second = page.locator(".token").nth(1);
      assert.ok(await second.evaluate((node) => node === document.activeElement));
      assert.ok((await page.locator("#tip .row").count()) >= 5);
      assert.equal(await page.locator("#tip .chosen").count(), 1);
      await page.keyboard.press("Escape");
      assert.equal(await page.locator("#tip").isVisible(), false);
      await page.locator(".token").nth(3).hover();
      assert.equal(await page.locator("#tip").isVisible(), true);
    });

    test("renames, exports, deletes and brings back a conversation", async () => {
      const page = await visit();
      await ask(page);
      await page.fill("#title", "A tale");
      await page.press("#title", "Enter");
      assert.equal(await page.locator("#list a").innerText(), "A tale");
      await page.click("#open-settings");
      const [download] = await Promise.all([page.waitForEvent("download"), page.getByRole("button", { name: "Export" }).click()]);
      assert.equal(download.suggestedFilename(), "a-tale.json");
      assert.equal(JSON.parse(await readFile(await download.path(), "utf8")).messages[0].text, PROMPT);
      await page.getByRole("button", { name: "Delete “A tale”" }).click();
      assert.equal(await page.locator("#list a").count(), 0);
      await page.getByRole("button", { name: "Undo" }).click();
      assert.equal(await page.locator("#list a").innerText(), "A tale");
      await page.locator(".sheet, .user").first().waitFor();
    });

    test("a reply is Markdown, and never markup", async () => {
      const hostile = "<img src=x onerror=alert(1)> [a](javascript:alert(1)) [b](https://example.org/) **bold** ***both*** ``c`<d`` 2 * 3 * 4 snake_case_name\n# Head #\n```html\n<script>alert(1)</script>\n```\n- one\n- two";
      const page = await visit({
        prepare: async (page) => {
          await page.route("**/v1/models", async (route) => {
            const response = await route.fetch();
            const json = await response.json();
            Object.assign(json.data[0].bitnet, { chat_template: true, builtin: false });
            await route.fulfill({ response, json });
          });
          await page.route("**/v1/chat/completions", (route) => route.fulfill(sse(piece(hostile, "stop"), "[DONE]")));
        },
      });
      await ask(page, "Hello");
      const reply = page.locator(".assistant .text");
      assert.equal(await reply.locator("img, script").count(), 0);
      assert.deepEqual(await reply.locator("a").evaluateAll((links) => links.map((link) => [link.href, link.rel])), [["https://example.org/", "noopener noreferrer"]]);
      assert.equal(await reply.locator("pre").innerText(), "<script>alert(1)</script>");
      assert.equal(await reply.locator("li").count(), 2);
      assert.deepEqual(await reply.locator("strong").allInnerTexts(), ["bold", "both"]);
      assert.deepEqual(await reply.locator("em").allInnerTexts(), ["both"]);
      assert.equal(await reply.locator("p code").innerText(), "c`<d");
      assert.equal(await reply.locator("h3").innerText(), "Head");
      assert.match(await reply.innerText(), /2 \* 3 \* 4 snake_case_name/);
    });

    test("events are the same however their bytes arrive, and any text becomes nodes with all its words", async () => {
      const page = await visit();
      const wrong = await page.evaluate(async () => {
        const base = document.querySelector("script[src]").src;
        const [{ events }, { show }] = await Promise.all(["./api.js", "./markdown.js"].map((name) => import(new URL(name, base).href)));
        // A generator of random numbers with a seed, so that a failure comes again.
        let state = 1;
        const below = (n) => {
          state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
          return Math.floor((state / 2 ** 32) * n);
        };
        const some = (list, n) => Array.from({ length: below(n) }, () => list[below(list.length)]).join("");
        const wrong = [];
        for (let round = 0; round < 300; round += 1) {
          const end = ["\n", "\r\n"][below(2)];
          const sent = Array.from({ length: below(6) }, () => some(["data: ", "é", "🦙", " ", "{}", ":", "\\n", "x"], 9));
          const text = sent.map((data) => some([`: ping${end}${end}`, `id: 7${end}`], 3) + `data: ${data}${end}${end}`).join("");
          const bytes = new TextEncoder().encode(text);
          const stream = new ReadableStream({
            start(controller) {
              for (let at = 0; at < bytes.length;) {
                const to = at + 1 + below(9);
                controller.enqueue(bytes.slice(at, to));
                at = to;
              }
              controller.close();
            },
          });
          const got = [];
          for await (const data of events(stream)) got.push(data);
          if (JSON.stringify(got) !== JSON.stringify(sent)) wrong.push({ sent, got });
        }
        const marks = ["`", "```", "~~~", "*", "**", "_", "# ", "- ", "1. ", "\n", "\n\n", "    ", "[", "](", "https://a.b/", ")", "\\", "word", "é", "\t", "<b>", "&lt;", "\u0000", "---"];
        for (let round = 0; round < 300; round += 1) {
          const text = some(marks, 60);
          const container = document.createElement("div");
          show(container, text);
          const words = (text) => (text.match(/word|<b>/g) ?? []).length;
          // The language of a block of code ends at its first space.
          if (!/(```|~~~)/.test(text) && !text.includes("](") && words(container.textContent) !== words(text)) wrong.push({ text });
          if (container.querySelector("b, script")) wrong.push({ text });
        }
        // Long runs of one mark end before the test's time does.
        for (const mark of [...marks, "``` ", "[a](", "* * ", "*a **b ", "- ".repeat(50) + "\n"]) {
          show(document.createElement("div"), `\`\`\`${" ".repeat(20_000)}\`\n` + mark.repeat(20_000 / mark.length));
        }
        return wrong;
      });
      assert.deepEqual(wrong, []);
    });

    test("works by keyboard alone", async () => {
      const page = await visit();
      await page.locator("#send:enabled").waitFor();
      await page.keyboard.type("One line");
      await page.keyboard.press("Shift+Enter");
      await page.keyboard.type("and two");
      assert.equal(await page.inputValue("#input"), "One line\nand two");
      await page.keyboard.press("Enter");
      await finished(page);
      await page.keyboard.press("Alt+KeyR");
      await page.getByText("2 of 2").waitFor();
      await finished(page);
      await page.keyboard.press("Alt+KeyS");
      assert.equal(await page.evaluate(() => document.activeElement.id), "close-settings");
      await page.keyboard.press("Escape");
      assert.equal(await page.evaluate(() => document.activeElement.id), "open-settings");
      await page.keyboard.press("Alt+KeyN");
      await page.locator(".welcome").waitFor();
      assert.equal(await page.evaluate(() => document.activeElement.id), "input");
      const seen = [];
      await page.focus(".skip");
      for (let i = 0; i < 14; i += 1) {
        await page.keyboard.press("Tab");
        seen.push(await page.evaluate(() => document.activeElement.id || document.activeElement.className || document.activeElement.tagName));
      }
      const order = ["new", "title", "open-settings", "thread", "input", "send"].map((id) => seen.indexOf(id));
      assert.ok(order.every((at, i) => at >= 0 && (i === 0 || at > order[i - 1])), seen.join(" "));
    });

    test("nothing scrolls sideways on a phone, and the panels cover the text", async () => {
      const page = await visit({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true });
      const isNarrow = async () => assert.ok((await page.evaluate(() => Math.max(document.documentElement.scrollWidth, document.querySelector("#thread").scrollWidth))) <= 390);
      await page.locator("#send:enabled").waitFor();
      await isNarrow();
      await ask(page, `Once upon a ${"very".repeat(60)} long time`);
      await isNarrow();
      await tool(page, "Probabilities").tap();
      await page.locator(".token").first().waitFor();
      await finished(page);
      await page.locator(".token").nth(2).tap();
      assert.equal(await page.locator("#tip").isVisible(), true);
      await isNarrow();
      for (const name of ["side", "settings"]) {
        await page.tap(`#open-${name}`);
        await isNarrow();
        assert.equal(await page.evaluate(() => document.querySelector("#main").inert), true);
        await page.tap(`#close-${name}`);
        assert.equal(await page.evaluate(() => document.querySelector("#main").inert), false);
      }
    });

    test("follows the system's colours, and the switch overrides them for good", async () => {
      const brightness = (page) => page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/[\d.]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0));
      const page = await visit({ colorScheme: "dark" });
      assert.ok((await brightness(page)) < 200);
      await page.click("#open-settings");
      await page.locator("#themes").getByLabel("Light").check();
      assert.ok((await brightness(page)) > 600);
      await page.reload();
      assert.ok((await brightness(page)) > 600);
    });

    test("axe finds nothing serious", async () => {
      for (const options of [{ colorScheme: "light" }, { colorScheme: "dark" }, { viewport: { width: 390, height: 844 } }]) {
        await context?.close();
        const page = await visit(options);
        await page.locator(".welcome h2").waitFor();
        await checkAxe(page);
        await ask(page);
        await checkAxe(page);
        await tool(page, "Probabilities").click();
        await page.locator(".token").first().waitFor();
        await finished(page);
        await page.locator(".token").nth(1).focus();
        await checkAxe(page);
        await page.click("#open-settings");
        await checkAxe(page);
        await page.keyboard.press("Escape");
        await page.route(endpoint(), (route) => route.fulfill(refusal(401, "no API key")));
        await send(page);
        await page.locator("#key").waitFor();
        await checkAxe(page);
      }
    });
  });
}
