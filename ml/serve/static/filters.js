// Which stems may be found.

const byId = (id) => document.getElementById(id);

export class Filters {
  #on;

  constructor(onChange) {
    this.#on = onChange;
    byId("variants").addEventListener("change", (event) => onChange({ variants: event.target.checked }));
    byId("own-track").addEventListener("change", (event) => onChange({ ownTrack: event.target.checked }));
    byId("per-track").addEventListener("change", (event) => onChange({ perTrack: event.target.value }));
    byId("bpm").addEventListener("change", (event) => onChange({ bpm: event.target.value.trim() }));
    byId("key").addEventListener("change", (event) => onChange({ key: event.target.value.trim() }));
    byId("where").addEventListener("change", (event) => onChange({ where: event.target.value.trim() }));
  }

  setChoices(corpora, categories) {
    this.#fill("corpora", corpora.map(({ corpus, stems }) => [corpus, `${stems} stems`]));
    this.#fill("categories", categories.map((category) => [category, ""]));
  }

  show(state) {
    for (const field of ["corpora", "categories"]) {
      for (const chip of byId(field).children) {
        chip.setAttribute("aria-pressed", String(state[field].includes(chip.dataset.value)));
      }
    }
    byId("variants").checked = state.variants;
    byId("own-track").checked = state.ownTrack;
    byId("per-track").value = state.perTrack;
    for (const field of ["bpm", "key", "where"]) byId(field).value = state[field];
    const single = [state.variants, state.ownTrack, state.perTrack, state.bpm, state.key, state.where];
    const count = state.corpora.length + state.categories.length + single.filter(Boolean).length;
    byId("filter-count").textContent = count ? ` (${count})` : "";
  }

  #fill(field, choices) {
    byId(field).replaceChildren(
      ...choices.map(([value, title]) => {
        const chip = document.createElement("button");
        chip.type = "button";
        chip.className = "chip";
        chip.textContent = value;
        chip.title = title;
        chip.dataset.value = value;
        chip.setAttribute("aria-pressed", "false");
        chip.addEventListener("click", () => {
          chip.setAttribute("aria-pressed", String(chip.getAttribute("aria-pressed") !== "true"));
          const chosen = [...byId(field).children].filter((one) => one.getAttribute("aria-pressed") === "true");
          this.#on({ [field]: chosen.map((one) => one.dataset.value) });
        });
        return chip;
      }),
    );
  }
}
