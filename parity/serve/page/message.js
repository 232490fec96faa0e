// One message on the page.

import { show } from "./markdown.js";

const template = document.getElementById("message-template");

// A view of a message: `draw` shows what the message holds now.
export class MessageView {
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    this.element = template.content.firstElementChild.cloneNode(true);
    this.element.classList.add(message.role);
    this.content = this.element.querySelector(".content");
    this.element.querySelector('[data-do="copy"]').addEventListener("click", (event) => copy(message.content, event.currentTarget));
    this.element.querySelector('[data-do="again"]').addEventListener("click", () => actions.again(message));
    this.draw();
  }

  draw(isStreaming = false) {
    const { message, element } = this;
    element.classList.toggle("streaming", isStreaming);
    if (message.role === "user") this.content.textContent = message.content;
    else show(this.content, message.content);
    this.drawReasoning(isStreaming);
    this.drawCalls(isStreaming);
    this.drawNote();
    element.querySelector(".numbers").textContent = numbersOf(message);
  }

  drawReasoning(isStreaming) {
    const details = this.element.querySelector(".reasoning");
    details.hidden = !this.message.reasoning;
    if (!this.message.reasoning) return;
    details.querySelector("summary").textContent = isStreaming && !this.message.content ? "Thinking…" : "Thought";
    show(details.querySelector(".prose"), this.message.reasoning);
  }

  drawCalls(isStreaming) {
    const place = this.element.querySelector(".calls");
    const calls = this.message.calls ?? [];
    calls.forEach((call, index) => {
      const box = place.children[index] ?? place.appendChild(newCall());
      box.querySelector("code").textContent = call.name;
      box.querySelector("pre").textContent = pretty(call.arguments, isStreaming);
    });
    const waits = calls.length > 0 && !isStreaming && this.actions.isLast(this.message);
    let form = this.element.querySelector(".results");
    if (!waits) form?.remove();
    else if (!form) place.after(resultsForm(calls, (results) => this.actions.results(calls, results)));
  }

  drawNote() {
    const note = this.element.querySelector(".note");
    const { error, stopped, finish } = this.message;
    note.hidden = !error && !stopped && finish !== "length";
    note.classList.toggle("error", Boolean(error));
    note.textContent = error || (stopped ? "Stopped." : "The answer was cut at its longest length.");
  }
}

function newCall() {
  const box = document.createElement("details");
  box.className = "call";
  box.open = true;
  const summary = document.createElement("summary");
  summary.append("Calls ", document.createElement("code"));
  box.append(summary, document.createElement("pre"));
  return box;
}

// Where the user says what the tools answered.
function resultsForm(calls, send) {
  const form = document.createElement("form");
  form.className = "call results";
  for (const call of calls) {
    const field = document.createElement("textarea");
    field.rows = 2;
    field.placeholder = `What ${call.name} answered`;
    field.setAttribute("aria-label", field.placeholder);
    form.append(field);
  }
  const button = document.createElement("button");
  button.className = "main";
  button.textContent = "Go on";
  form.append(button);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    send([...form.querySelectorAll("textarea")].map((field) => field.value));
  });
  return form;
}

function pretty(text, isStreaming) {
  if (isStreaming) return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function numbersOf({ usage, seconds }) {
  if (!usage) return "";
  const rate = seconds > 0 ? ` · ${(usage.completion_tokens / seconds).toFixed(1)} tokens/s` : "";
  return `${usage.completion_tokens} tokens${rate}`;
}

// Copies a text, and says so on the button for a moment.
export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = document.createElement("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  const before = [...button.childNodes];
  button.replaceChildren("✓");
  setTimeout(() => button.replaceChildren(...before), 1200);
}
