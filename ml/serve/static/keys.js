// Keys. What is typed into a field stays there, and a button keeps its own space key.

const FIELDS = "input:not([type=checkbox]), textarea, select, dialog[open]";
const OWN_SPACE = "button, a, summary, label, input";

export function listenToKeys(keys) {
  addEventListener("keydown", (event) => {
    const isOwnSpace = event.key === " " && event.target.closest(OWN_SPACE);
    if (event.target.closest(FIELDS) || isOwnSpace || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (act === undefined) return;
    event.preventDefault();
    act();
  });
}
