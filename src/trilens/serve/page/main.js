// The page: models, views, and the conversation.
import { byId, make } from "./dom.js";
import { models as listModels, NeedsKey, setKey } from "./api.js";
import { Answer } from "./answer.js";
import { CompareView } from "./compare.js";
import { colour, inWords } from "./colour.js";
import { LensView } from "./lens.js";
import { fillSwitch, thinkingOf } from "./switch.js";

const RETRY = 2000; // milliseconds between looks for a server that is away
let models = [];
let lens = null;
let running = null;
let turns = []; // {role, content, ...} as the server wants them

const chosen = () => models.find((model) => model.id === byId("model").value);

function say(words, bad = false) {
  const status = byId("status");
  status.textContent = words;
  status.classList.toggle("bad", bad);
}

// ---------------------------------------------------------------- views
const VIEWS = ["talk", "lens", "compare"];

function open(view) {
  for (const name of VIEWS) {
    const tab = byId(`tab-${name}`);
    tab.setAttribute("aria-selected", String(name === view));
    tab.tabIndex = name === view ? 0 : -1;
    byId(`view-${name}`).hidden = name !== view;
  }
  if (view === "lens" && chosen()) lens.show(chosen());
}

for (const name of VIEWS) {
  const tab = byId(`tab-${name}`);
  tab.addEventListener("click", () => open(name));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = VIEWS[(VIEWS.indexOf(name) + step + VIEWS.length) % VIEWS.length];
    open(next);
    byId(`tab-${next}`).focus();
  });
}

// ---------------------------------------------------------------- models
function choose(id) {
  byId("model").value = id;
  const model = chosen();
  const swatch = byId("swatch");
  swatch.style.background = colour(model);
  swatch.setAttribute("aria-label", inWords(model));
  fillSwitch(byId("switch"), model, "thinking", (choice) => (byId("budget-field").hidden = choice !== "budget"));
  if (!byId("view-lens").hidden) lens.show(model);
}

async function begin() {
  try {
    models = (await listModels()).filter((model) => model.trilens.readable);
  } catch (problem) {
    if (problem instanceof NeedsKey) return askForKey();
    say(`${problem.message}; trying again`, true);
    setTimeout(begin, RETRY);
    return undefined;
  }
  say("");
  if (!models.length) return say("none of the models here can be read", true);
  byId("model").replaceChildren(...models.map((model) => make("option", { value: model.id }, model.id)));
  lens = new LensView(models, choose);
  new CompareView(models, noticeFailure, (answer) => lens.note(answer));
  choose(models[0].id);
  return undefined;
}

function askForKey() {
  const dialog = byId("key-dialog");
  if (!dialog.open) dialog.showModal();
}

byId("key-form").addEventListener("submit", () => {
  setKey(byId("key").value);
  if (models.length) say("");
  else begin();
});

function noticeFailure(problem) {
  if (problem instanceof NeedsKey) return askForKey();
  say(problem.message, true);
  return watch();
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
function controls() {
  byId("send").hidden = Boolean(running);
  byId("stop").hidden = !running;
  byId("now").hidden = !running;
  byId("fresh").disabled = Boolean(running);
  byId("talk").setAttribute("aria-busy", String(Boolean(running)));
}

async function ask(question) {
  byId("empty").hidden = true;
  const said = make("div", { class: "said" }, question);
  byId("talk").append(said);
  await reply([...turns, { role: "user", content: question }], chosen(), { thinking: thinkingOf(byId("switch"), byId("budget")) });
}

async function reply(messages, model, options) {
  const answer = new Answer(model);
  running = answer;
  controls();
  byId("talk").append(answer.element);
  answer.onroutes = (own) => lens.note(own);
  answer.element.scrollIntoView({ block: "end" });
  try {
    await answer.ask(messages, options);
    lens.note(answer);
    choose(byId("model").value);
    if (answer.text || answer.thinking) turns = [...messages, answer.message];
  } catch (problem) {
    answer.fail(problem.message, () => {
      if (running) return;
      answer.element.remove();
      reply(messages, model, options);
    });
    noticeFailure(problem);
  } finally {
    running = null;
    controls();
    answer.element.scrollIntoView({ block: "end" });
  }
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = byId("question");
  const question = field.value.trim();
  if (!question || running || !chosen()) return;
  field.value = "";
  ask(question);
});
byId("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("ask").requestSubmit();
  }
});
byId("model").addEventListener("change", () => choose(byId("model").value));
byId("stop").addEventListener("click", () => running?.stop());
byId("now").addEventListener("click", () => running?.answerNow());
byId("fresh").addEventListener("click", () => {
  turns = [];
  byId("talk").replaceChildren();
  byId("empty").hidden = false;
  byId("question").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running) running.stop();
});

controls();
begin();
