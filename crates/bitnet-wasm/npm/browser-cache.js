// Models in the browser's storage: the origin private file system. A file is found by its URL;
// an entry beside it says what was stored, and is written last, so a broken download has none.
const FOLDER = "bitnet-wasm";

/** Opens the folder; nothing where there is no such storage. */
async function folder(create) {
  try {
    const root = await navigator.storage.getDirectory();
    return await root.getDirectoryHandle(FOLDER, { create });
  } catch {
    return undefined;
  }
}

/** Returns the name of a URL's file: its SHA-256. */
async function nameOf(url) {
  const hash = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(url));
  return Array.from(new Uint8Array(hash), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Opens a file for this worker alone; nothing if it is absent or another page has it open. */
async function access(name, create) {
  try {
    const file = await (await folder(create))?.getFileHandle(name, { create });
    return await file?.createSyncAccessHandle();
  } catch {
    return undefined;
  }
}

/** Returns the entry of a URL: `version`, `size` and `hash` of its file. */
export async function find(url) {
  try {
    const file = await (await folder(false)).getFileHandle(`${await nameOf(url)}.json`);
    const entry = JSON.parse(await (await file.getFile()).text());
    return entry.url === url ? entry : undefined;
  } catch {
    return undefined;
  }
}

/** Opens the file of a URL. */
export async function read(url) {
  const handle = await access(`${await nameOf(url)}.gguf`, false);
  if (!handle) return undefined;
  const chunk = async (start, end) => {
    const bytes = new Uint8Array(end - start);
    return bytes.subarray(0, handle.read(bytes, { at: start }));
  };
  return { size: handle.getSize(), chunk, close: () => handle.close() };
}

/** Removes the file of a URL and its entry. */
export async function remove(url) {
  const name = await nameOf(url);
  const files = await folder(false);
  for (const ending of ["json", "gguf"]) await files?.removeEntry(`${name}.${ending}`).catch(() => {});
}

/** Begins to store the file of a URL. */
export async function write(url) {
  await remove(url);
  const name = await nameOf(url);
  const handle = await access(`${name}.gguf`, true);
  if (!handle) return undefined;
  let at = 0;
  const discard = async () => {
    handle.close();
    await remove(url);
  };
  return {
    /** Returns whether the bytes could be stored. If not, the file is gone. */
    append(bytes) {
      try {
        if (handle.write(bytes, { at }) === bytes.byteLength) {
          at += bytes.byteLength;
          return true;
        }
      } catch {
        // The storage is full.
      }
      discard();
      return false;
    },
    async finish(entry) {
      try {
        handle.truncate(at);
        handle.flush();
        handle.close();
        const file = await access(`${name}.json`, true);
        file.truncate(0);
        file.write(new TextEncoder().encode(JSON.stringify({ url, ...entry })), { at: 0 });
        file.close();
      } catch {
        await remove(url);
      }
    },
    discard,
  };
}

/** Removes all files. */
export async function removeAll() {
  const root = await navigator.storage.getDirectory();
  await root.removeEntry(FOLDER, { recursive: true }).catch((error) => {
    if (error.name !== "NotFoundError") throw error;
  });
}
