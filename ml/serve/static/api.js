// Asks the server. Every refusal is an ApiError whose message is the server's own sentence.

export class ApiError extends Error {
  constructor(sentence, status) {
    super(sentence);
    this.status = status;
  }
}

const SILENT = "The server does not answer. Is “stems serve” still running?";

export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(SILENT, 0);
  }
  if (!answer.ok) throw new ApiError(await sentenceOf(answer), answer.status);
  return answer;
}

export async function askJson(path, options) {
  return (await ask(path, options)).json();
}

export function postJson(path, body, options = {}) {
  const headers = { "Content-Type": "application/json" };
  return askJson(path, { ...options, method: "POST", headers, body: JSON.stringify(body) });
}

// fetch() says nothing of how far an upload is; XMLHttpRequest does.
export function sendMix(file, { onProgress, signal }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", `/api/mixes?name=${encodeURIComponent(shortName(file.name))}`);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.responseType = "json";
    request.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    request.onload = () => {
      const body = request.response;
      if (request.status === 201) resolve(body);
      else reject(new ApiError(body?.detail ?? `The server answered ${request.status}.`, request.status));
    };
    request.onerror = () => reject(new ApiError(SILENT, 0));
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}

function shortName(name) {
  return name.replace(/[\u0000-\u001f\u007f]/g, " ").slice(-200) || "mix";
}

async function sentenceOf(answer) {
  try {
    return (await answer.json()).detail ?? answer.statusText;
  } catch {
    return `The server answered ${answer.status}.`;
  }
}
