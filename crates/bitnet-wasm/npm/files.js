// From the files of a model to the memory of the module, chunk by chunk.
import { BitnetError } from "./error.js";

/** Bytes that are read at once where a file is not a stream. */
const CHUNK = 4 << 20;

/** Milliseconds between two reports of progress. */
const REPORT_TIME = 50;

/**
 * Reads all files into the loader. The memory that the model needs is checked as soon as the
 * header of the first is there.
 */
export async function readFiles(loader, files, { host, cache, options, progress }) {
  const opened = [];
  try {
    for (const file of files) opened.push(await open(file, host, cache && host.cache));
    const sizes = opened.map(({ size }) => size);
    const total = sizes.includes(undefined) ? undefined : sizes.reduce((sum, size) => sum + size, 0);
    if (total !== undefined) loader.check(total, options);
    let before = 0;
    for (const file of opened) {
      const report = reporter(file, before, total, progress);
      const take = (chunk) => {
        loader.append(chunk);
        report(chunk.byteLength);
        if (total !== undefined) loader.check(total, options);
      };
      const begin = (size) => loader.begin(file.name, size);
      before += await file.read({ begin, take, hash: () => loader.hash(), discard: () => loader.discard() });
      report(0);
    }
    loader.check(before, options);
  } finally {
    for (const file of opened) await file.close?.();
  }
}

/** Returns a function that counts bytes and reports them now and then, and at the end. */
function reporter(file, before, total, progress) {
  let loaded = before;
  let last = -Infinity;
  return (n) => {
    loaded += n;
    const now = performance.now();
    if (n > 0 && now - last < REPORT_TIME) return;
    last = now;
    progress({ phase: file.phase, loaded, total });
  };
}

/** Opens a file: its name, its size if it is known, and how to read it. */
function open(file, host, cache) {
  if (file.url !== undefined) return openUrl(file.url, cache);
  if (file.blob !== undefined) return randomAccess(file.name, file.blob.size, (start, end) => blobChunk(file.blob, start, end));
  if (file.port !== undefined) return openPort(file);
  return host.openPath(file.path);
}

async function blobChunk(blob, start, end) {
  return new Uint8Array(await blob.slice(start, end).arrayBuffer());
}

/** A file that is read by `chunk(start, end)`. */
export function randomAccess(name, size, chunk, close) {
  const read = async ({ begin, take }) => {
    begin(size);
    for (let start = 0; start < size; start += CHUNK) {
      const end = Math.min(start + CHUNK, size);
      const bytes = await chunk(start, end);
      if (bytes.byteLength !== end - start) {
        throw new BitnetError("bad-model", `${name} ended at byte ${start + bytes.byteLength} of ${size}`);
      }
      take(bytes);
    }
    return size;
  };
  return { name, size, phase: "read", read, close };
}

/** Bytes of the caller, who sends the parts that are asked for: no copy of the whole is made. */
function openPort({ name, size, port }) {
  const chunk = (start, end) => new Promise((resolve) => {
    port.onmessage = ({ data }) => resolve(data);
    port.postMessage([start, end]);
  });
  return randomAccess(name, size, chunk, () => port.close());
}

/** A download, or its copy in the cache if the server still has the same file. */
async function openUrl(url, cache) {
  const name = decodeURIComponent(new URL(url).pathname.split("/").pop()) || url;
  const entry = await cache?.find(url);
  let response;
  let first;
  try {
    response = await request(url, { method: "HEAD" });
    // Some servers refuse that: then the file itself is asked for.
    if (!response.ok) response = first = await get(url);
  } catch (error) {
    // Without a network, the copy is what there is.
    if (entry) return cached(name, url, entry, cache);
    throw error;
  }
  const { size, version } = identity(response);
  if (entry && entry.version === version && (size === undefined || entry.size === size)) {
    await first?.body.cancel();
    return cached(name, url, entry, cache);
  }
  return {
    name,
    size,
    phase: "download",
    read: (sink) => download(url, first, sink, cache),
    // Which fails where it was read to the end.
    close: () => first?.body.cancel().catch(() => {}),
  };
}

async function get(url) {
  // What is kept here needs no second copy in the browser's own cache.
  const response = await request(url, { cache: "no-store" });
  if (!response.ok) {
    throw new BitnetError("network", `cannot fetch ${url}: status ${response.status} ${response.statusText}`.trimEnd());
  }
  return response;
}

async function request(url, options) {
  try {
    return await fetch(url, options);
  } catch (error) {
    throw new BitnetError("network", `cannot fetch ${url}: ${error.cause?.message ?? error.message}`);
  }
}

/** Returns what tells whether two responses have the same file. */
function identity({ headers }) {
  // The length of what is compressed on the way is not that of the file.
  const length = headers.get("content-encoding") ? null : headers.get("content-length");
  return {
    size: length === null ? undefined : Number(length),
    version: headers.get("etag") ?? headers.get("last-modified") ?? "",
  };
}

/** Downloads a file, unless the response is there. */
async function download(url, first, { begin, take, hash }, cache) {
  const response = first ?? (await get(url));
  const { size, version } = identity(response);
  const isKnown = size !== undefined || version !== "";
  let writer = isKnown ? await cache?.write(url) : undefined;
  let loaded = 0;
  try {
    begin(size);
    for await (const chunk of chunks(response, url)) {
      take(chunk);
      loaded += chunk.byteLength;
      // A storage that is full is no reason to fail.
      if (writer && !writer.append(chunk)) writer = undefined;
    }
    if (size !== undefined && loaded < size) {
      throw new BitnetError("network", `${url} ended after ${loaded} of ${size} bytes`);
    }
    await writer?.finish({ version, size: loaded, hash: hash() });
  } catch (error) {
    await writer?.discard();
    throw error;
  }
  return loaded;
}

async function* chunks(response, url) {
  const reader = response.body.getReader();
  try {
    for (;;) {
      let next;
      try {
        next = await reader.read();
      } catch (error) {
        throw new BitnetError("network", `the download of ${url} broke off: ${error.message}`);
      }
      if (next.done) return;
      yield next.value;
    }
  } finally {
    await reader.cancel().catch(() => {});
    reader.releaseLock();
  }
}

/** The copy in the cache. If it is not what was stored, the file is fetched again. */
function cached(name, url, entry, cache) {
  const file = { name, size: entry.size, phase: "cache" };
  file.read = async (sink) => {
    let isBegun = false;
    const begin = (size) => {
      sink.begin(size);
      isBegun = true;
    };
    const reader = await cache.read(url);
    try {
      if (reader?.size === entry.size) {
        await randomAccess(name, entry.size, reader.chunk).read({ ...sink, begin });
        if (sink.hash() === entry.hash) return entry.size;
      }
    } catch {
      // What is wrong with it may be the copy's fault.
    } finally {
      reader?.close();
    }
    if (isBegun) sink.discard();
    await cache.remove(url);
    file.phase = "download";
    return download(url, undefined, sink, cache);
  };
  return file;
}
