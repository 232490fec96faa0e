// The chat page: conversations at the side, messages in the middle, a question below.

import { ask, stream } from "./api.js";
import { MessageView, copy } from "./message.js";
import { deleteAll, deleteConversation, listConversations, loadConversation, loadSettings, newConversation, saveConversation, saveSettings } from "./store.js";

const $ = (id) => document.getElementById(id);
const STATUS_EVERY_MS = 2000;
const SAVE_EVERY_MS = 1000;

let conversation = newConversation();
let views = new Map();
let running = null; // the AbortController of the answer being written
let settings = loadSettings();
let models = [];

// Conversations

function openConversation(id) {
  stop();
  conversation = (id && loadConversation(id)) || newConversation();
  location.hash = id ? `#${id}` : "";
  drawConversation();
  drawList();
  closeSidebar();
  $("question").focus();
}

function drawConversation() {
  views = new Map();
  $("messages").replaceChildren();
  conversation.messages.forEach(addView);
  $("welcome").hidden = conversation.messages.length > 0;
  $("title").textContent = conversation.title || "New conversation";
  document.title = conversation.title ? `${conversation.title} · Parity` : "Parity";
  $("scroll").scrollTop = $("scroll").scrollHeight;
}

function drawList() {
  $("conversations").replaceChildren(...listConversations().map(({ id, title }) => {
    const item = document.createElement("li");
    const open = document.createElement("button");
    open.textContent = title || "New conversation";
    open.addEventListener("click", () => openConversation(id));
    const remove = document.createElement("button");
    remove.className = "icon small";
    remove.textContent = "✕";
    remove.setAttribute("aria-label", `Delete ${title}`);
    remove.addEventListener("click", () => {
      deleteConversation(id);
      if (id === conversation.id) openConversation(null);
      else drawList();
    });
    item.append(open, remove);
    item.classList.toggle("current", id === conversation.id);
    if (id === conversation.id) open.setAttribute("aria-current", "true");
    return item;
  }));
}

function save() {
  const fits = saveConversation(conversation);
  if (!fits) $("announce").textContent = "The browser has no room left for this conversation.";
}

// Messages

const actions = {
  isLast: (message) => message === conversation.messages.at(-1),
  again(message) {
    stop();
    const index = conversation.messages.indexOf(message);
    conversation.messages.length = index;
    drawConversation();
    answer();
  },
  results(calls, results) {
    calls.forEach((call, index) => add({ role: "tool", content: results[index], tool_call_id: call.id }));
    answer();
  },
};

function addView(message) {
  if (message.role === "tool") return;
  const view = new MessageView(message, actions);
  views.set(message, view);
  $("messages").append(view.element);
}

function add(message) {
  const last = conversation.messages.at(-1);
  conversation.messages.push(message);
  addView(message);
  views.get(last)?.draw();
  $("welcome").hidden = true;
  return message;
}

// The messages as the API has them. An answer that failed or was empty is left out.
function wireMessages() {
  const system = settings.system ? [{ role: "system", content: settings.system }] : [];
  const kept = conversation.messages.filter((message) => message.role !== "assistant" || message.content || message.calls?.length);
  return system.concat(kept.map(({ role, content, calls, tool_call_id }) => {
    if (role === "tool") return { role, content, tool_call_id };
    if (!calls?.length) return { role, content };
    return { role, content, tool_calls: calls.map((call) => ({ id: call.id, type: "function", function: { name: call.name, arguments: call.arguments } })) };
  }));
}

function body() {
  const { model, temperature, top_p, max_tokens, seed, thinking, tools } = settings;
  const given = Object.entries({ temperature, top_p, max_tokens, seed }).filter(([, value]) => Number.isFinite(value));
  return {
    model: models.includes(model) ? model : models[0],
    messages: wireMessages(),
    ...Object.fromEntries(given),
    ...(thinking && { chat_template_kwargs: { enable_thinking: thinking === "on" } }),
    ...(tools && { tools: JSON.parse(tools) }),
  };
}

// Writes the next answer, chunk by chunk; what has come is kept whatever happens.
async function answer() {
  const control = new AbortController();
  const request = body();
  const message = add({ role: "assistant", content: "", reasoning: "", calls: [] });
  const view = views.get(message);
  const home = conversation;
  let firstMs = 0;
  let savedMs = performance.now();
  let isDrawn = true;
  setRunning(control);
  view.draw(true);
  try {
    await stream(request, control.signal, (chunk) => {
      firstMs ||= performance.now();
      take(message, chunk);
      if (isDrawn) {
        isDrawn = false;
        requestAnimationFrame(() => {
          isDrawn = true;
          if (running === control) follow(() => view.draw(true));
        });
      }
      if (performance.now() - savedMs > SAVE_EVERY_MS) {
        savedMs = performance.now();
        saveConversation(home);
      }
    });
    if (message.usage) message.seconds = (performance.now() - firstMs) / 1000;
    $("announce").textContent = "The answer is complete.";
  } catch (error) {
    if (control.signal.aborted) message.stopped = true;
    else message.error = error.message;
  }
  if (running === control) setRunning(null);
  saveConversation(home);
  if (home === conversation) {
    follow(() => view.draw());
    drawList();
  }
}

function take(message, { choices, usage }) {
  if (usage) message.usage = usage;
  const choice = choices[0];
  if (!choice) return;
  message.content += choice.delta.content ?? "";
  message.reasoning += choice.delta.reasoning_content ?? "";
  for (const { index, id, function: call } of choice.delta.tool_calls ?? []) {
    message.calls[index] ??= { id, name: "", arguments: "" };
    message.calls[index].name += call.name ?? "";
    message.calls[index].arguments += call.arguments ?? "";
  }
  if (choice.finish_reason) message.finish = choice.finish_reason;
}

// Draws, and stays at the end if that is where the reader was.
function follow(draw) {
  const scroll = $("scroll");
  const isAtEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;
  draw();
  if (isAtEnd) scroll.scrollTop = scroll.scrollHeight;
}

function setRunning(control) {
  running = control;
  $("stop").hidden = !control;
  $("send").hidden = Boolean(control);
}

function stop() {
  running?.abort();
  if (running) setRunning(null);
}

// The question

async function send() {
  if (!models.length) await loadModels();
  const text = $("question").value.trim();
  if (!text || running || !models.length) return;
  $("question").value = "";
  sizeQuestion();
  if (!conversation.title) {
    conversation.title = text.replace(/\s+/g, " ").trim().slice(0, 120);
    location.hash = `#${conversation.id}`;
  }
  add({ role: "user", content: text });
  save();
  drawList();
  $("title").textContent = conversation.title;
  document.title = `${conversation.title} · Parity`;
  $("scroll").scrollTop = $("scroll").scrollHeight;
  answer();
}

function sizeQuestion() {
  const field = $("question");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
  $("send").disabled = !field.value.trim();
}

// Settings

function openSettings() {
  const { elements } = $("settings").querySelector("form");
  for (const name of ["system", "temperature", "top_p", "max_tokens", "seed", "thinking", "tools"]) elements[name].value = settings[name] ?? "";
  elements.model.replaceChildren(...models.map((name) => new Option(name, name, false, name === settings.model)));
  $("settings-error").textContent = "";
  $("settings").showModal();
}

function keepSettings(event) {
  const { elements } = event.target;
  const tools = elements.tools.value.trim();
  try {
    if (tools && !Array.isArray(JSON.parse(tools))) throw new Error("they must be a list");
  } catch (error) {
    event.preventDefault();
    $("settings-error").textContent = `The tools are not right: ${error.message}`;
    return;
  }
  settings = { model: elements.model.value, system: elements.system.value.trim(), thinking: elements.thinking.value, tools };
  for (const name of ["temperature", "top_p", "max_tokens", "seed"]) {
    if (elements[name].value !== "") settings[name] = elements[name].valueAsNumber;
  }
  saveSettings(settings);
  $("model").textContent = body().model ?? "";
}

// The status, and the look

async function loadModels() {
  try {
    models = (await ask("/v1/models")).data.map((model) => model.id);
    $("model").textContent = models.includes(settings.model) ? settings.model : models[0];
  } catch (error) {
    $("model").textContent = error.message;
  }
}

async function drawStatus() {
  if (!document.hidden) {
    try {
      const status = await ask("/status");
      const share = status.num_pages ? status.num_pages_used / status.num_pages : 0;
      $("status-stack").textContent = `${status.stack}, ${status.dtype}`;
      $("status-rate").textContent = status.tokens_per_s.toFixed(1);
      $("status-requests").textContent = `${status.num_running}, ${status.num_waiting}`;
      $("status-pages").textContent = `${status.num_pages_used} of ${status.num_pages}`;
      $("status-meter").value = share;
      if (!models.length) await loadModels();
    } catch {
      for (const name of ["stack", "rate", "requests", "pages"]) $(`status-${name}`).textContent = "–";
    }
  }
  setTimeout(drawStatus, STATUS_EVERY_MS);
}

function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
}

function switchTheme() {
  const isDark = getComputedStyle(document.documentElement).colorScheme === "dark"
    || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  localStorage.setItem("parity.theme", isDark ? "light" : "dark");
  setTheme(isDark ? "light" : "dark");
}

function closeSidebar() {
  $("sidebar").classList.remove("open");
  $("shade").hidden = true;
}

function openSidebar() {
  $("sidebar").classList.add("open");
  $("shade").hidden = false;
  $("new").focus();
}

// Wiring

$("starters").addEventListener("click", (event) => {
  if (event.target.tagName !== "BUTTON") return;
  $("question").value = event.target.textContent;
  $("composer").requestSubmit();
  $("question").focus();
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
$("question").addEventListener("input", sizeQuestion);
$("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
$("stop").addEventListener("click", stop);
$("new").addEventListener("click", () => openConversation(null));
$("theme").addEventListener("click", switchTheme);
$("open-sidebar").addEventListener("click", openSidebar);
$("close-sidebar").addEventListener("click", closeSidebar);
$("shade").addEventListener("click", closeSidebar);
$("open-settings").addEventListener("click", openSettings);
$("settings").querySelector("form").addEventListener("submit", keepSettings);
$("forget").addEventListener("click", () => {
  if (!confirm("Delete all conversations from this browser?")) return;
  deleteAll();
  $("settings").close();
  openConversation(null);
});
$("messages").addEventListener("click", (event) => {
  const button = event.target.closest(".copy-code");
  if (button) copy(button.closest("figure").querySelector("code").textContent, button);
});
document.addEventListener("keydown", (event) => {
  if ($("settings").open) return;
  if (event.key === "Escape") {
    stop();
    closeSidebar();
  }
  if (event.altKey && event.key.toLowerCase() === "n") openConversation(null);
});
addEventListener("pagehide", () => conversation.messages.length && saveConversation(conversation));

setTheme(localStorage.getItem("parity.theme"));
loadModels();
drawStatus();
sizeQuestion();
openConversation(location.hash.slice(1) || null);
