/** Text from strangers (image files, directories) in messages that end on a terminal. */

/** What a terminal would act upon, or what turns or breaks a line; half of a surrogate pair among them. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu;
const MAX_QUOTED = 300;

function escaped(letter: string): string {
  return [...Array(letter.length).keys()]
    .map((at) => `\\u${letter.charCodeAt(at).toString(16).padStart(4, '0')}`)
    .join('');
}

/** In double quotes on one line, with escapes as in JSON; cut where it is longer than a message should be. */
export function quoted(text: string): string {
  const cut = text.length > MAX_QUOTED ? `${text.slice(0, MAX_QUOTED)}…` : text;
  return JSON.stringify(cut).replace(UNPRINTABLE, escaped);
}

/** A path as it is; quoted only where it could not be shown so. */
export function shownPath(path: string): string {
  return path.search(UNPRINTABLE) < 0 && path.length <= 4096 ? path : quoted(path);
}
