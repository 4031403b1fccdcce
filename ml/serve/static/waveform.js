// Waveforms at a glance as SVG: they scale with the page and take their colours from the style.

const SVG = "http://www.w3.org/2000/svg";
const BARS = 120;

// A path of bars around the middle of a box 1 high and as wide as there are bars.
export function barsPath(peaks, bars = BARS, { side = "both" } = {}) {
  const top = Math.max(0.02, ...peaks);
  const parts = [];
  for (let i = 0; i < bars; i += 1) {
    const from = Math.floor((i * peaks.length) / bars);
    const to = Math.max(from + 1, Math.floor(((i + 1) * peaks.length) / bars));
    let peak = 0;
    for (let j = from; j < to && j < peaks.length; j += 1) peak = Math.max(peak, peaks[j]);
    const height = Math.max(0.03, Math.pow(peak / top, 0.8));
    const y = side === "both" ? (1 - height) / 2 : side === "up" ? 1 - height : 0;
    parts.push(`M${(i + 0.14).toFixed(2)} ${y.toFixed(3)}h.72v${height.toFixed(3)}h-.72z`);
  }
  return parts.join("");
}

// Fills a .wave element: bars, the same bars in colour up to --played, and the best place.
export function drawWave(element, { peaks, durationS, bestS = null, chunkS = 0, bestTitle = "" }) {
  const path = barsPath(peaks);
  element.replaceChildren(bars(path, "rest"), bars(path, "played"));
  element.classList.remove("loading");
  if (bestS === null || !durationS) return;
  const place = document.createElement("span");
  place.className = "best";
  place.title = bestTitle;
  place.style.setProperty("--from", bestS / durationS);
  place.style.setProperty("--to", Math.min(1, (bestS + chunkS) / durationS));
  element.prepend(place);
}

export function showPlayed(element, share) {
  element.style.setProperty("--played", Math.max(0, Math.min(1, share)));
}

export function clearWave(element) {
  element.replaceChildren();
  element.classList.add("loading");
}

function bars(path, name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${BARS} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("bars", name);
  const drawn = document.createElementNS(SVG, "path");
  drawn.setAttribute("d", path);
  svg.append(drawn);
  return svg;
}

// The mix above, the stem below, on the time line of the mix.
export class Duet {
  constructor(element) {
    this.element = element;
    element.replaceChildren();
    this.parts = {};
    for (const name of ["region", "mix", "stem", "head"]) {
      this.parts[name] = document.createElement("span");
      this.parts[name].className = `duet-${name}`;
      element.append(this.parts[name]);
    }
  }

  show(name, sound, startS, totalS) {
    const part = this.parts[name];
    part.replaceChildren();
    if (!sound?.peaks?.length || !totalS) return;
    part.append(bars(barsPath(sound.peaks, BARS, { side: name === "mix" ? "up" : "down" }), "whole"));
    this.place(name, startS, sound.durationS, totalS);
  }

  place(name, startS, durationS, totalS) {
    this.parts[name].style.setProperty("--from", startS / totalS);
    this.parts[name].style.setProperty("--to", (startS + durationS) / totalS);
  }

  region(region, totalS) {
    this.parts.region.hidden = region === null;
    if (region !== null) this.place("region", region.startS, region.lengthS, totalS);
  }

  head(share) {
    this.parts.head.style.setProperty("--at", Math.max(0, Math.min(1, share)));
  }
}
