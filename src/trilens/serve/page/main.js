// The page: models, views, and what the server's state means for them.
import { byId, make, withCode } from "./dom.js";
import { models as listModels, NeedsKey, ServerGone, setKey } from "./api.js";
import { CompareView } from "./compare.js";
import { colour, inWords } from "./colour.js";
import { LensView } from "./lens.js";
import { fillSwitch, thinkingOf } from "./switch.js";
import { List } from "./talk/list.js";
import { Talk } from "./talk/talk.js";
import { messages } from "./talk/tree.js";
import { otherLanguage, t, writeWords } from "./words/words.js";

const RETRY = 2000; // milliseconds between looks for a server that is away
const MODEL = "trilens-model"; // the model that was chosen last
const VIEWS = ["talk", "lesson", "lens", "compare"];
/** @type {any[]} */
let models = [];
/** @type {LensView | null} */
let lens = null;
/** @type {any} */
let lesson = null;

writeWords();

/** @param {string | undefined} id */
const modelOf = (id) => models.find((model) => model.id === id) ?? { id: id ?? "?", trilens: { lens: null, routes: false } };
const chosen = () => models.find((model) => model.id === byId("model").value);

/** @param {string} words */
function say(words, bad = true) {
  byId("status").replaceChildren(...withCode(words));
  byId("status").classList.toggle("bad", bad && words !== "");
}

// ---------------------------------------------------------------- views
/** @param {string} view */
function open(view) {
  for (const name of VIEWS) {
    const tab = byId(`tab-${name}`);
    tab.setAttribute("aria-selected", String(name === view));
    tab.tabIndex = name === view ? 0 : -1;
    byId(`view-${name}`).hidden = name !== view;
  }
  if (location.hash.slice(1).split("/")[0] !== view) history.replaceState(null, "", view === "talk" ? location.pathname : `#${view}`);
  if (view === "lens" && chosen()) lens?.show(chosen());
  if (view === "lesson") openLesson();
}

async function openLesson() {
  if (!lesson) {
    document.head.append(make("link", { rel: "stylesheet", href: "lesson/lesson.css" }));
    const { Lesson } = await import("./lesson/lesson.js");
    lesson ??= new Lesson(byId("view-lesson"), failed);
  }
  if (models.length) lesson.show(models);
}

const viewOfPlace = () => VIEWS.find((view) => location.hash.slice(1).split("/")[0] === view) ?? "talk";
addEventListener("hashchange", () => open(viewOfPlace()));

for (const name of VIEWS) {
  const tab = byId(`tab-${name}`);
  tab.addEventListener("click", () => open(name));
  tab.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = VIEWS[(VIEWS.indexOf(name) + step + VIEWS.length) % VIEWS.length];
    open(next);
    byId(`tab-${next}`).focus();
  });
}

// ---------------------------------------------------------------- models
/** @param {string} id */
function choose(id) {
  byId("model").value = id;
  localStorage.setItem(MODEL, id);
  const model = chosen();
  byId("swatch").style.background = colour(model);
  byId("swatch").setAttribute("aria-label", inWords(model));
  fillSwitch(byId("switch"), model, "thinking", (choice) => (byId("budget-field").hidden = choice !== "budget"));
  if (!byId("view-lens").hidden) lens?.show(model);
}

async function begin() {
  try {
    models = (await listModels()).filter((model) => model.trilens.readable);
  } catch (problem) {
    if (problem instanceof NeedsKey) return askForKey();
    say(`${problem.message} ${t("trying_again")}`);
    setTimeout(begin, RETRY);
    return undefined;
  }
  say("");
  if (!models.length) return say(t("no_models"));
  byId("model").replaceChildren(...models.map((model) => make("option", { value: model.id }, model.id)));
  lens = new LensView(models, choose, { messages: () => messages(talk.talk), failed });
  new CompareView(models, failed, (answer) => lens?.note(answer));
  const last = localStorage.getItem(MODEL);
  choose(models.some((model) => model.id === last) ? /** @type {string} */ (last) : models[0].id);
  if (!talk.talk.turns.length) await talk.resume();
  else talk.draw();
  list.draw();
  open(viewOfPlace());
  return undefined;
}

function askForKey() {
  if (!byId("key-dialog").open) byId("key-dialog").showModal();
}

byId("key-form").addEventListener("submit", () => {
  setKey(byId("key").value);
  if (models.length) say("");
  else begin();
});

/** @param {Error} problem */
function failed(problem) {
  if (problem instanceof NeedsKey) return askForKey();
  say(problem.message);
  return problem instanceof ServerGone ? watch() : undefined;
}

/** Until the server is back; what is on the page stays. */
async function watch() {
  try {
    await listModels();
    say("");
  } catch (problem) {
    if (!(problem instanceof NeedsKey)) setTimeout(watch, RETRY);
  }
}

// ---------------------------------------------------------------- conversation
/** @param {import("./talk/answer.js").Answer | null} answer */
function running(answer) {
  byId("send").hidden = Boolean(answer);
  byId("stop").hidden = !answer;
  byId("now").hidden = !(answer?.isThinking && answer.model.trilens.thinking?.budget);
  byId("language").disabled = Boolean(answer);
  if (!answer && chosen()) choose(byId("model").value);
}

const talk = new Talk({
  chosen, modelOf, failed, say, running,
  thinking: () => thinkingOf(byId("switch"), byId("budget")),
  noted: (answer) => lens?.note(answer),
  kept: () => list.draw(),
});
const list = new List(talk, say);

byId("model").addEventListener("change", () => choose(byId("model").value));
byId("stop").addEventListener("click", () => talk.running?.stop());
byId("now").addEventListener("click", () => talk.running?.answerNow());
byId("language").addEventListener("click", otherLanguage);
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") talk.running?.stop();
});

begin();
