// Text files beside a question. Each is read here and sent as text, in front of the question.
import { byId, make } from "../dom.js";
import { bytes } from "../units.js";
import { t } from "../words/words.js";

const MOST = 1 << 20; // bytes of one file

export class Files {
  /** @param {(words: string) => void} refused */
  constructor(refused) {
    this.refused = refused;
    /** @type {import("./tree.js").TextFile[]} */
    this.files = [];
    byId("attach").addEventListener("click", () => byId("file").click());
    byId("file").addEventListener("change", async () => {
      await this.add([...byId("file").files]);
      byId("file").value = "";
    });
    const form = byId("ask");
    form.addEventListener("dragover", (/** @type {DragEvent} */ event) => {
      if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
    });
    form.addEventListener("drop", (/** @type {DragEvent} */ event) => {
      const files = [...(event.dataTransfer?.files ?? [])];
      if (!files.length) return;
      event.preventDefault();
      this.add(files);
    });
  }

  /** @param {File[]} files */
  async add(files) {
    for (const file of files) {
      try {
        this.files.push({ name: file.name, text: await textOf(file) });
      } catch (problem) {
        this.refused(problem.message);
      }
    }
    this._draw();
  }

  /** The files, which are then none. */
  take() {
    const taken = this.files;
    this.files = [];
    this._draw();
    return taken;
  }

  _draw() {
    const chips = this.files.map((file, i) => {
      const remove = () => {
        this.files.splice(i, 1);
        this._draw();
      };
      return make("span", { class: "chip" }, file.name, make("button", { type: "button", class: "act", "aria-label": t("remove_file", { name: file.name }), onclick: remove }, "×"));
    });
    byId("files").replaceChildren(...chips);
    byId("files").hidden = !chips.length;
  }
}

/** @param {File} file @returns {Promise<string>} Throws an Error that says what is wrong. */
export async function textOf(file) {
  if (file.size > MOST) throw new Error(t("file_too_large", { name: file.name, most: bytes(MOST) }));
  const data = await file.arrayBuffer();
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(data);
    if (!text.includes("\0")) return text;
  } catch {}
  throw new Error(t("file_not_text", { name: file.name }));
}
