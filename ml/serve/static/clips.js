// Decoded audio: whole sounds, or pieces of long ones, the newest of them kept.

import { ask } from "./api.js";

const WHOLE_S = 150; // longer sounds come in pieces, so that a phone can hold them
const PIECE_S = 120;
const BEFORE_S = 10;
const KEPT = 6;

export class Clips {
  #decode;
  #kept = new Map(); // address → promise of a clip, the oldest first

  constructor(decode) {
    this.#decode = decode;
  }

  // A clip of a sound that holds a place: {buffer, startS, endS}.
  around(sound, placeS) {
    const isWhole = sound.durationS <= WHOLE_S;
    const step = PIECE_S / 4;
    const last = Math.max(0, sound.durationS - PIECE_S);
    const startS = isWhole ? 0 : Math.min(last, Math.max(0, Math.floor((placeS - BEFORE_S) / step) * step));
    const piece = `${sound.url.includes("?") ? "&" : "?"}start_s=${startS}&duration_s=${PIECE_S}`;
    const address = isWhole ? sound.url : sound.url + piece;
    const found = this.#kept.get(address) ?? this.#load(address, startS);
    this.#kept.delete(address);
    this.#kept.set(address, found);
    while (this.#kept.size > KEPT) this.#kept.delete(this.#kept.keys().next().value);
    return found;
  }

  #load(address, startS) {
    const clip = ask(address)
      .then((answer) => answer.arrayBuffer())
      .then((bytes) => this.#decode(bytes))
      .then((buffer) => ({ buffer, startS, endS: startS + buffer.duration }));
    clip.catch(() => this.#kept.delete(address)); // asked for again, it may come
    return clip;
  }
}
