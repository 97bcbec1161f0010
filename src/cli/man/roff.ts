/** Writing man pages: the macros of man(7) that groff and mandoc share, with every text escaped. */

const SPECIAL: Readonly<Record<string, string>> = {
  '\\': '\\e',
  '-': '\\-',
  "'": '\\(aq',
  '`': '\\(ga',
  '^': '\\(ha',
  '~': '\\(ti',
  '"': '\\(dq',
};

/** Text as it is to be printed, whatever is in it. It may stand in a line of text or as an argument in quotes. */
export function escaped(text: string): string {
  return text.replaceAll(/[\\\-'`^~"]|[^\x20-\x7e]/g, (letter) => {
    const point = letter.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0');
    return SPECIAL[letter] ?? `\\[u${point}]`;
  });
}

export const bold = (text: string): string => `\\fB${escaped(text)}\\fR`;
export const italic = (text: string): string => `\\fI${escaped(text)}\\fR`;

/**
 * Text in which `words like these` are bold, and those in ‹these marks› italic: for what is written by hand. The rest
 * is escaped.
 */
export function marked(text: string): string {
  return text
    .split(/(`[^`]*`|‹[^›]*›)/)
    .map((part) => {
      if (part.startsWith('`')) return bold(part.slice(1, -1));
      if (part.startsWith('‹')) return italic(part.slice(1, -1));
      return escaped(part);
    })
    .join('');
}

/** One line of text: a dot at its start would be a request. `text` is escaped already. */
const textLine = (text: string): string => `${text.startsWith('.') ? '\\&' : ''}${text}\n`;

export interface Tagged {
  /** Both escaped already. */
  readonly tag: string;
  readonly text: string;
}

/** The parts of a page, each ending with a line feed. Their texts are escaped already. */
export const paragraph = (text: string): string => `.PP\n${textLine(text)}`;
export const section = (title: string, ...parts: readonly string[]): string => titled('SH', title, parts);
export const subsection = (title: string, ...parts: readonly string[]): string => titled('SS', title, parts);

/** A title begins a paragraph by itself. */
const titled = (macro: 'SH' | 'SS', title: string, parts: readonly string[]): string =>
  `.${macro} ${escaped(title)}\n${parts.join('').replace(/^\.PP\n/, '')}`;

/** `width`: of the column of tags, where it is not the usual one. */
export const tagged = (items: readonly Tagged[], width = ''): string =>
  items.map(({ tag, text }) => `${`.TP ${width}`.trimEnd()}\n${textLine(tag)}${textLine(text)}`).join('');
/** "vdisk(1)": pages to read as well. */
export const seeAlso = (...pages: readonly string[]): string =>
  section(
    'SEE ALSO',
    textLine(
      pages
        .map((page) => {
          const [, name, number] = /^(.*)(\(\d\))$/.exec(page) ?? ['', page, ''];
          return `${bold(name!)}${number}`;
        })
        .join(', '),
    ),
  );
/** What all pages say of themselves. */
export interface About {
  readonly date: string;
  readonly version: string;
}

/** The first lines of a page. */
export function heading(
  page: About & { readonly name: string; readonly section: number; readonly manual: string },
): string {
  const { name, section, date, version, manual } = page;
  return [
    '.\\" Made by "npm run docs". Changes belong into src.\n',
    `.TH "${escaped(name.toUpperCase())}" ${section} "${date}" "vdisk\\-mount ${escaped(version)}" "${escaped(manual)}"\n`,
    // Neither hyphens that nobody wrote nor stretched spaces: what is typed is typed like this.
    '.nh\n.ad l\n',
  ].join('');
}
