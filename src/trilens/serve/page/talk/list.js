// The conversations that this browser keeps: open, rename, delete, save as a file, read from one.
import { byId, make, saveFile, sends } from "../dom.js";
import { t } from "../words/words.js";
import { exported, imported } from "./exchange.js";
import * as store from "./store.js";
import { titleOf } from "./tree.js";

/** @typedef {import("./store.js").Head} Head */

export class List {
  /** @param {import("./talk.js").Talk} talk @param {(words: string) => void} say */
  constructor(talk, say) {
    this.talk = talk;
    this.say = say;
    byId("fresh").addEventListener("click", () => {
      talk.fresh();
      this.close();
      this.draw();
    });
    byId("export-all").addEventListener("click", async () => save("trilens-conversations", await store.readAll()));
    byId("import").addEventListener("click", () => byId("import-file").click());
    byId("import-file").addEventListener("change", () => this._import());
    byId("open-list").addEventListener("click", () => this.open());
    byId("close-list").addEventListener("click", () => this.close());
    byId("sidebar").addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
      if (event.key === "Escape" && byId("sidebar").classList.contains("open")) this.close();
    });
  }

  /** Over the page, where there is no room beside it. */
  open() {
    byId("sidebar").classList.add("open");
    byId("open-list").setAttribute("aria-expanded", "true");
    byId("close-list").focus();
  }

  close() {
    if (!byId("sidebar").classList.contains("open")) return;
    byId("sidebar").classList.remove("open");
    byId("open-list").setAttribute("aria-expanded", "false");
    byId("open-list").focus();
  }

  async draw() {
    const heads = await store.heads();
    const focused = document.activeElement?.closest("[data-talk]")?.getAttribute("data-talk");
    byId("list").replaceChildren(...heads.map((head) => this._item(head)));
    byId("no-list").hidden = heads.length > 0;
    byId("export-all").disabled = !heads.length;
    byId("not-kept").hidden = await store.keeps();
    if (focused) byId("list").querySelector(`[data-talk="${CSS.escape(focused)}"] button`)?.focus();
  }

  /** @param {Head} head */
  _item(head) {
    const title = head.title || t("untitled");
    const current = head.id === this.talk.talk.id;
    const item = make("li", { "data-talk": head.id });
    const act = (/** @type {string} */ key, /** @type {() => void} */ onclick) =>
      make("button", { type: "button", class: "act", "aria-label": `${t(key)}: ${title}`, title: t(key), onclick }, t(`${key}_short`));
    const show = () => item.replaceChildren(
      make("button", { type: "button", class: "name", dir: "auto", "aria-current": current ? "true" : null, onclick: () => this._open(head.id) }, title),
      make("span", { class: "acts" }, act("rename", rename), act("export", () => this._export(head)), act("delete", ask)),
    );
    const rename = () => {
      const field = make("input", { type: "text", "aria-label": t("new_name"), value: title, maxlength: "120" });
      const done = (/** @type {boolean} */ kept) => (kept && field.value.trim() ? this._rename(head.id, field.value.trim()) : show());
      field.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
        if (sends(event)) done(true);
        else if (event.key === "Escape") {
          event.stopPropagation();
          done(false);
        }
      });
      item.replaceChildren(field, make("button", { type: "button", class: "act", onclick: () => done(true) }, t("save")));
      field.select();
    };
    const ask = () => {
      const yes = make("button", { type: "button", class: "act bad", onclick: () => this._delete(head.id) }, t("delete"));
      item.replaceChildren(make("span", { class: "name" }, t("really_delete", { title: titleOf(title) })), make("span", { class: "acts shown" }, yes, make("button", { type: "button", class: "act", onclick: show }, t("cancel"))));
      yes.focus();
    };
    show();
    return item;
  }

  /** @param {string} id */
  async _open(id) {
    const kept = await store.read(id);
    if (!kept || this.talk.running) return;
    this.talk.open(kept);
    this.close();
    this.draw();
  }

  /** @param {string} id @param {string} title */
  async _rename(id, title) {
    const kept = id === this.talk.talk.id ? this.talk.talk : await store.read(id);
    if (kept) {
      kept.title = title;
      await store.write(kept);
    }
    this.draw();
  }

  /** @param {string} id */
  async _delete(id) {
    await store.remove(id);
    if (id === this.talk.talk.id) this.talk.fresh();
    this.draw();
  }

  /** @param {Head} head */
  async _export(head) {
    const kept = await store.read(head.id);
    if (kept) save((head.title || "conversation").replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60), [kept]);
  }

  async _import() {
    const field = byId("import-file");
    const [file] = field.files;
    field.value = "";
    if (!file) return;
    try {
      const known = new Set((await store.heads()).map((head) => head.id));
      for (const talk of imported(await file.text())) {
        if (known.has(talk.id)) talk.id = `${talk.id}-${Math.random().toString(36).slice(2)}`; // one that is here stays as it is
        await store.write(talk);
      }
      this.say("");
    } catch (problem) {
      this.say(problem.message);
    }
    this.draw();
  }
}

/** @param {string} name @param {import("./tree.js").Conversation[]} talks */
const save = (name, talks) => saveFile(`${name}.json`, exported(talks), "application/json");
