/**
 * Tokenizer of a checkpoint: the tokens of `jobs.datasets.tokenizer.tokenize`, in the same regular expressions.
 *
 * Classes of characters and lower-case forms come from classifier.json, since those of browsers are of other versions of
 * Unicode. A text is searched in a copy in which all characters of a class are the same one: for characters of one and
 * of two UTF-16 units there is one of each, so that indices are the same in both.
 */

/**
 * @typedef {object} TokenizerSettings
 * @property {"unicode" | "unicode-pairs" | "words"} tokenizer
 * @property {boolean} lowercase
 * @property {number} max_tokens
 * @property {number[]} character_classes runs of code points: number of them, and the value of each
 * @property {number[]} lowercase_forms runs of code points: first, last, distance, and what is added to each
 */

// Values of character_classes, as jobs/portable/character_tables.py writes them.
const SPACE = 1, SINGLE = 4, PAIRED = 5, WORD = 6, MARK = 7, LINKER = 8, REMOVED = 9;
const CLASS = 15, CASED = 16, IGNORABLE = 32, UNASSIGNED = 64;
const NUM_CODE_POINTS = 0x110000;
const SIGMA = 0x3a3, DOTTED_I = 0x130, APOSTROPHE = 0x2019;
const MAX_PUNCTUATION_RUN = 3;

// What stands for a class in the copy: for characters of one unit, then of two.
const REPRESENTATIVES = {
  [SPACE]: " ", [SINGLE]: "一𠀀", [PAIRED]: "一𠀀", [WORD]: "é𝒜", [MARK]: "\u0300\u{1d165}", [LINKER]: "\u0301",
};
const HEBREW = "א", FIRST_HEBREW = 0x5c0, LAST_HEBREW = 0x5ff;
const LETTERS = `${REPRESENTATIVES[WORD]}${HEBREW}`, MARKS = `${REPRESENTATIVES[MARK]}${REPRESENTATIVES[LINKER]}`;
const WHITE = "\\t-\\r\\x1c- ", JOINERS = "\u200c\u200d", MIDDLES = "'\u055f\u05f4\u066b\u066c\u2027";

function compilePattern(inside, clusters) {
  const first = `[0-9A-Za-z_${LETTERS}]`, letter = `[0-9A-Za-z_${LETTERS}${MARKS}]`, mark = `[${MARKS}]`;
  const clitics = `[nN]'[tT](?!${letter})|'(?:[sSmMdD]|[rR][eE]|[vV][eE]|[lL][lL])(?!${letter})`;
  const word = `${first}${letter}*(?:(?:${inside})${letter}+)*(?:(?<=${mark})[${JOINERS}]+)?`;
  const extended = `[${REPRESENTATIVES[SINGLE]}][${MARKS}${JOINERS}]*`;
  const cluster = clusters ? `${extended}(?:(?<=${REPRESENTATIVES[LINKER]})${extended})*|` : "";
  const run = `${mark}+|([^0-9A-Za-z_${LETTERS}${REPRESENTATIVES[SINGLE]}${MARKS}${WHITE}])\\2*`;
  return new RegExp(`${word}(?=[nN]'[tT](?!${letter}))|${clitics}|${word}|${cluster}(${run})`, "gu");
}

const WORDS_PATTERN = compilePattern(`[${JOINERS}]+`, false);
const UNICODE_PATTERN = compilePattern(
  [
    `[${JOINERS}]+`,
    `(?<=[${LETTERS}${MARKS}])[${MIDDLES}](?=[${LETTERS}])`,
    `(?<=${HEBREW})"(?=${HEBREW})`,
    "(?<=[lL])\u00b7(?=[lL])",
  ].join("|"),
  true,
);

export class Tokenizer {
  #settings;
  #pattern;
  #classes = new Uint8Array(NUM_CODE_POINTS);
  #lowercase = new Map();

  /** @param {TokenizerSettings} settings */
  constructor(settings) {
    if (!["unicode", "unicode-pairs", "words"].includes(settings.tokenizer)) {
      throw new Error(`classifier.json: the tokenizer '${settings.tokenizer}' is unknown`);
    }
    this.#settings = settings;
    this.#pattern = settings.tokenizer === "words" ? WORDS_PATTERN : UNICODE_PATTERN;
    const runs = settings.character_classes;
    for (let index = 0, code = 0; index < runs.length; code += runs[index], index += 2) {
      this.#classes.fill(runs[index + 1], code, code + runs[index]);
    }
    const forms = settings.lowercase_forms;
    for (let index = 0; index < forms.length; index += 4) {
      const [first, last, distance, difference] = forms.slice(index, index + 4);
      for (let code = first; code <= last; code += distance) {
        this.#lowercase.set(code, String.fromCodePoint(code + difference));
      }
    }
  }

  /**
   * Return the tokens of a text in the spelling of the vocabulary, at most `max_tokens`.
   * @param {string} text
   * @returns {string[]}
   */
  tokenize(text) {
    const tokens = [];
    for (const token of this.#findTokens(this.#normalize(text))) {
      if (tokens.length === this.#settings.max_tokens) break;
      tokens.push(token);
    }
    return tokens;
  }

  *#findTokens(text) {
    const marked = this.#mark(text);
    const spans = this.#findSpans(text, marked);
    if (this.#settings.tokenizer !== "unicode-pairs") {
      for (const [start, end] of spans) yield text.slice(start, end);
      return;
    }
    // A cluster is a pair with the one that follows it; a cluster alone is single.
    const isSingle = (index) => REPRESENTATIVES[SINGLE].includes(String.fromCodePoint(marked.codePointAt(index)));
    let [previous, isInRun] = [null, false];
    for (const span of spans) {
      if (previous) {
        const hasNext = span[0] === previous[1] && isSingle(previous[0]) && isSingle(span[0]);
        if (hasNext || !isInRun) yield text.slice(previous[0], hasNext ? span[1] : previous[1]);
        isInRun = hasNext;
      }
      previous = span;
    }
    if (previous && !isInRun) yield text.slice(previous[0], previous[1]);
  }

  *#findSpans(text, marked) {
    for (const match of marked.matchAll(this.#pattern)) {
      const textEnd = match.index + match[0].length;
      let end = match[1] === undefined ? textEnd : match.index; // of a run, the first characters are the token
      for (let count = 0; count < MAX_PUNCTUATION_RUN && end < textEnd; count++) {
        end += text.codePointAt(end) > 0xffff ? 2 : 1;
      }
      yield [match.index, end];
    }
  }

  /** Return the copy of a normalized text in which characters of a class are the same. */
  #mark(text) {
    if (isAscii(text)) return text;
    let marked = "";
    for (const character of text) {
      const code = character.codePointAt(0);
      const kind = code < 0x80 ? 0 : this.#classes[code] & CLASS;
      const representative = REPRESENTATIVES[kind];
      if (representative === undefined) marked += character;
      else if (kind === WORD && code >= FIRST_HEBREW && code <= LAST_HEBREW) marked += HEBREW;
      else marked += character.length === 1 ? representative[0] : representative.slice(1);
    }
    return marked;
  }

  /** Return a text in Unicode NFC, with straight apostrophes, without invisible characters, in lower case if set. */
  #normalize(text) {
    const { lowercase } = this.#settings;
    if (isAscii(text)) return lowercase ? text.toLowerCase() : text;
    const codes = [];
    for (const character of text) {
      const code = character.codePointAt(0);
      if ((this.#classes[code] & CLASS) === REMOVED) continue;
      // Two surrogates that were apart stay apart.
      if (isBetween(code, 0xdc00, 0xdfff) && isBetween(codes.at(-1), 0xd800, 0xdbff)) codes.push(0x20);
      codes.push(code === APOSTROPHE ? 0x27 : code);
    }
    if (!lowercase) return this.#compose(toText(codes));
    const composed = this.#compose(codes.map((code, index) => this.#toLowerCase(code, index, codes)).join(""));
    return composed.includes("i\u0307") ? this.#compose(composed.replace(/i\u0307+/g, "i")) : composed;
  }

  #toLowerCase(code, index, codes) {
    if (code === DOTTED_I) return "i\u0307";
    if (code === SIGMA) return this.#isCased(codes, index, -1) && !this.#isCased(codes, index, 1) ? "ς" : "σ";
    return this.#lowercase.get(code) ?? String.fromCodePoint(code);
  }

  /** Return whether a cased letter comes next in a direction, apart from characters that are ignored there. */
  #isCased(codes, index, direction) {
    do index += direction; while (this.#classes[codes[index]] & IGNORABLE);
    return (this.#classes[codes[index]] & CASED) !== 0;
  }

  /** Return a text in NFC; what the version of Unicode of the training did not know stays as it is. */
  #compose(text) {
    let [composed, start, index] = ["", 0, 0];
    for (const character of text) {
      index += character.length;
      if (this.#classes[character.codePointAt(0)] & UNASSIGNED) {
        composed += text.slice(start, index - character.length).normalize("NFC") + character;
        start = index;
      }
    }
    return composed + text.slice(start).normalize("NFC");
  }
}

const isAscii = (text) => /^[\0-\x7f]*$/.test(text);
const isBetween = (code, first, last) => code >= first && code <= last;

function toText(codes) {
  let text = "";
  for (const code of codes) text += String.fromCodePoint(code);
  return text;
}
