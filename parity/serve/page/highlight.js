// Colours for code: strings, comments, numbers, keywords and the names of calls, for the common families of languages.

const WORDS = {
  python: "False None True and as assert async await break case class continue def del elif else except finally for from global if import in is lambda match nonlocal not or pass raise return try while with yield self",
  script: "async await break case catch class const continue debugger default delete do else enum export extends false finally for from function if implements import in instanceof interface let new null of private public readonly return static super switch this throw true try type typeof undefined var void while yield",
  c: "abstract alignas auto bool boolean break case catch char class const constexpr continue default defer delete do double else enum explicit export extends extern false final finally float fn for friend func go goto if impl implements import in include inline int interface let long loop map match mod move mut namespace new nil noexcept null nullptr operator override package private protected pub public range ref return self short signed sizeof static string struct super switch template this throw throws trait true try type typedef typename union unsafe unsigned use using var virtual void volatile where while",
  shell: "case do done elif else esac exit export fi for function if in local read return set source then until while",
  sql: "add all alter and as asc between by case create cross delete desc distinct drop else end exists from full group having in index inner insert into is join key left like limit not null on or order outer primary references right select set table then union unique update values view when where with",
  data: "true false null yes no",
};
const FAMILY = {
  python: "python", py: "python", python3: "python",
  javascript: "script", js: "script", jsx: "script", typescript: "script", ts: "script", tsx: "script",
  c: "c", cpp: "c", "c++": "c", cuda: "c", java: "c", kotlin: "c", go: "c", rust: "c", rs: "c", csharp: "c", cs: "c", swift: "c", php: "c",
  bash: "shell", sh: "shell", shell: "shell", zsh: "shell", console: "shell", dockerfile: "shell",
  sql: "sql",
  json: "data", yaml: "data", yml: "data", toml: "data", ini: "data",
};
const STRING = `"(?:\\\\.|[^"\\\\\\n])*"?|'(?:\\\\.|[^'\\\\\\n])*'?`;
const NUMBER = "\\b(?:0[xX][\\da-fA-F_]+|\\d[\\d_]*(?:\\.\\d+)?(?:[eE][+-]?\\d+)?)\\b";
const COMMENT = {
  python: "#.*", shell: "(?<=^|\\s)#.*", data: "(?<=^|\\s)#.*", sql: "--.*|/\\*[^]*?(?:\\*/|$)",
  script: "//.*|/\\*[^]*?(?:\\*/|$)", c: "//.*|/\\*[^]*?(?:\\*/|$)",
};
const LONG = { python: `"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|`, script: "`(?:\\\\.|[^`\\\\])*`?|" };

const rules = new Map();
function ruleOf(family) {
  if (!rules.has(family)) {
    const words = WORDS[family].split(" ").join("|");
    const flags = family === "sql" ? "gim" : "gm";
    const source = `(?<comment>${COMMENT[family]})|(?<string>${LONG[family] ?? ""}${STRING})|(?<number>${NUMBER})|(?<keyword>\\b(?:${words})\\b)|(?<name>\\b[A-Za-z_]\\w*(?=\\())`;
    rules.set(family, new RegExp(source, flags));
  }
  return rules.get(family);
}

// Nodes for a text of code in a language; plain text if the language is not known.
export function highlight(text, language) {
  const family = FAMILY[language.toLowerCase()];
  if (!family || text.length > 200000) return [document.createTextNode(text)];
  const nodes = [];
  let end = 0;
  for (const match of text.matchAll(ruleOf(family))) {
    const kind = Object.keys(match.groups).find((name) => match.groups[name] !== undefined);
    if (match.index > end) nodes.push(document.createTextNode(text.slice(end, match.index)));
    const span = document.createElement("span");
    span.className = kind;
    span.textContent = match[0];
    nodes.push(span);
    end = match.index + match[0].length;
  }
  if (end < text.length) nodes.push(document.createTextNode(text.slice(end)));
  return nodes;
}
