// The page: four views, the language, the theme, and one model for all of them.
import { Card } from "./card.js";
import { Compare } from "./compare.js";
import { $ } from "./dom.js";
import { Folder } from "./folder.js";
import { LANGUAGES, chooseLanguage, language, t, translate } from "./messages.js";
import { Model } from "./model.js";
import { keepOffline } from "./offline.js";
import { Slot } from "./slot.js";

const THEME = "dermdistill-theme";
const state = $("#state");
let views = {};

function show(name) {
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.hash === `#${name}`;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    $(`#view-${link.hash.slice(1)}`).hidden = !here;
  }
  if (name === "model") views.model.open();
  document.title = `${t(`nav.${name}`)} · dermdistill`;
}

const viewName = () => (location.hash.slice(1) in views ? location.hash.slice(1) : "image");

function say(key) {
  state.dataset.t = key;
  state.textContent = t(key);
}

function speak(name) {
  chooseLanguage(name);
  translate();
  for (const view of Object.values(views)) view.words();
  show(viewName());
}

function paint(theme) {
  if (theme) localStorage.setItem(THEME, theme);
  const wanted = localStorage.getItem(THEME) ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.documentElement.dataset.theme = wanted;
  $('meta[name="theme-color"]').content = wanted === "dark" ? "#0d1a1c" : "#f4f7f6";
}

function paste(event) {
  const file = Array.from(event.clipboardData.files).find((one) => one.type.startsWith("image/"));
  if (!file) return;
  if (viewName() === "compare") (views.compare.slots.find((slot) => !slot.photo) ?? views.compare.slots[1]).take(file);
  else { location.hash = "#image"; views.image.take(file); }
}

// Resolves when the page was drawn; a page in the background is not.
const painted = () => new Promise((resolve) => {
  if (document.hidden) resolve();
  else requestAnimationFrame(() => setTimeout(resolve));
});

function build(model) {
  const view = (name) => $(`#view-${name}`);
  views = {
    image: new Slot(view("image"), model, "slot.title"), compare: new Compare(view("compare"), model),
    folder: new Folder(view("folder"), model), model: new Card(view("model"), model),
  };
  show(viewName());
  addEventListener("hashchange", () => show(viewName()));
  addEventListener("paste", paste);
}

async function start() {
  const model = new Model(painted()); // the page stands before megabytes are asked for
  build(model);
  await model.ready;
  say("state.ready");
  views.model.words();
  const kept = await keepOffline([...model.files, ...performance.getEntriesByType("resource").map((entry) => entry.name)]);
  if (kept) say("state.offline");
  document.documentElement.dataset.ready = kept ? "offline" : "online";
}

chooseLanguage();
paint();
const picker = $("#language");
picker.replaceChildren(...Object.entries(LANGUAGES).map(([name, words]) => new Option(words.language, name)));
picker.value = language();
picker.addEventListener("change", () => speak(picker.value));
$("#theme").addEventListener("click", () => paint(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
translate();
start().catch((error) => {
  say("state.failed");
  state.classList.add("alarm");
  state.title = error.message;
});
