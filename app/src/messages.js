// Words in the person's language. A language is one file in messages/ and one line here.
import en from "../messages/en.json";
import de from "../messages/de.json";

export const LANGUAGES = { en, de };
const STORED = "dermdistill-language";
let current = "en";

export function chooseLanguage(name) {
  const wanted = [name, localStorage.getItem(STORED), ...navigator.languages.map((tag) => tag.slice(0, 2))];
  current = wanted.find((one) => one in LANGUAGES) ?? "en";
  if (name) localStorage.setItem(STORED, current);
  document.documentElement.lang = current;
  return current;
}

export const language = () => current;

// The text of a key, its {gaps} filled.
export function t(key, gaps = {}) {
  const text = LANGUAGES[current][key] ?? en[key];
  if (text === undefined) throw new Error(`no message ${key}`);
  return text.replace(/\{(\w+)\}/g, (_, name) => gaps[name]);
}

// A class's name for people; classes that the files do not know keep their own.
export function className(code) {
  return LANGUAGES[current][`class.${code.toUpperCase()}`] ?? code;
}

export function percent(share, digits = 0) {
  return new Intl.NumberFormat(current, {
    style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits,
  }).format(share);
}

// Fills every element that names a message: its text, or attributes ("aria-label:key title:key").
export function translate(root = document) {
  for (const element of root.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of root.querySelectorAll("[data-t-attribute]")) {
    for (const pair of element.dataset.tAttribute.split(" ")) {
      const [attribute, key] = pair.split(":");
      element.setAttribute(attribute, t(key));
    }
  }
}
