// Conversations in this browser: IndexedDB, or memory alone where there is none. The heads (title and time) are kept
// apart, so that a list of many conversations reads none of them.

/** @typedef {import("./tree.js").Conversation} Conversation */
/** @typedef {{id: string, title: string, changed: number}} Head */

const [NAME, VERSION] = ["trilens", 1];

/** @type {Promise<IDBDatabase | null>} */
const opened = new Promise((resolve) => {
  try {
    const asked = indexedDB.open(NAME, VERSION);
    asked.onupgradeneeded = () => {
      asked.result.createObjectStore("conversations", { keyPath: "id" });
      asked.result.createObjectStore("heads", { keyPath: "id" });
    };
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = asked.onblocked = () => resolve(null);
  } catch {
    resolve(null);
  }
});

/** @type {Map<string, Conversation>} */
const memory = new Map(); // where nothing can be kept

/** Whether conversations survive a reload. */
export const keeps = async () => (await opened) !== null;

/**
 * @template T
 * @param {IDBTransactionMode} mode @param {(conversations: IDBObjectStore, heads: IDBObjectStore) => IDBRequest<T> | void} work
 * @returns {Promise<T>}
 */
async function within(mode, work) {
  const database = /** @type {IDBDatabase} */ (await opened);
  return new Promise((resolve, reject) => {
    const change = database.transaction(["conversations", "heads"], mode);
    const asked = work(change.objectStore("conversations"), change.objectStore("heads"));
    change.oncomplete = () => resolve(/** @type {T} */ (asked?.result));
    change.onerror = change.onabort = () => reject(change.error ?? new Error("the browser's storage failed"));
  });
}

/** @returns {Promise<Head[]>} newest first */
export async function heads() {
  const found = (await opened) ? await within("readonly", (_, heads) => heads.getAll()) : [...memory.values()];
  return found.sort((/** @type {Head} */ a, /** @type {Head} */ b) => b.changed - a.changed);
}

/** @param {string} id @returns {Promise<Conversation | undefined>} */
export async function read(id) {
  if (!(await opened)) return memory.get(id);
  return within("readonly", (conversations) => conversations.get(id));
}

/** @returns {Promise<Conversation[]>} */
export async function readAll() {
  if (!(await opened)) return [...memory.values()];
  return within("readonly", (conversations) => conversations.getAll());
}

/** @param {Conversation} talk */
export async function write(talk) {
  const { id, title, changed } = talk;
  if (!(await opened)) memory.set(id, structuredClone(talk));
  else {
    await within("readwrite", (conversations, heads) => {
      conversations.put(talk);
      heads.put({ id, title, changed });
    });
  }
}

/** @param {string} id */
export async function remove(id) {
  if (!(await opened)) memory.delete(id);
  else {
    await within("readwrite", (conversations, heads) => {
      conversations.delete(id);
      heads.delete(id);
    });
  }
}
