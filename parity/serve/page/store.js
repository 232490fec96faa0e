// Conversations and settings, kept in this browser. Each conversation has a key of its own, so that saving one is cheap.

const INDEX = "parity.conversations";
const SETTINGS = "parity.settings";
const keyOf = (id) => `parity.conversation.${id}`;

function read(key, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function newConversation() {
  return { id: crypto.randomUUID ? crypto.randomUUID() : `${Date.now()}-${Math.random()}`, title: "", changed: Date.now(), messages: [] };
}

// [{id, title, changed}], the latest first.
export function listConversations() {
  return read(INDEX, []).sort((one, other) => other.changed - one.changed);
}

export function loadConversation(id) {
  return read(keyOf(id), null);
}

// Saves a conversation; when the browser's room is full, the oldest others make place.
export function saveConversation(conversation) {
  conversation.changed = Date.now();
  const others = read(INDEX, []).filter((entry) => entry.id !== conversation.id);
  const entry = { id: conversation.id, title: conversation.title, changed: conversation.changed };
  for (;;) {
    try {
      localStorage.setItem(keyOf(conversation.id), JSON.stringify(conversation));
      localStorage.setItem(INDEX, JSON.stringify([entry, ...others]));
      return true;
    } catch {
      const oldest = others.sort((one, other) => other.changed - one.changed).pop();
      if (!oldest) return false;
      localStorage.removeItem(keyOf(oldest.id));
    }
  }
}

export function deleteConversation(id) {
  localStorage.removeItem(keyOf(id));
  localStorage.setItem(INDEX, JSON.stringify(read(INDEX, []).filter((entry) => entry.id !== id)));
}

export function deleteAll() {
  for (const entry of read(INDEX, [])) localStorage.removeItem(keyOf(entry.id));
  localStorage.removeItem(INDEX);
}

export const loadSettings = () => read(SETTINGS, {});
export const saveSettings = (settings) => localStorage.setItem(SETTINGS, JSON.stringify(settings));
