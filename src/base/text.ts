/** Text from strangers (image files, directories) in messages that end on a terminal. */

/** What a terminal would act upon, or what turns or breaks a line; half of a surrogate pair among them. */
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu;
/** Of these, what does harm and not only hides: letters of many languages need the others. */
const HARMFUL = /[\p{Cc}\p{Zl}\p{Zp}\p{Bidi_Control}]/gu;
const MAX_QUOTED = 300;

function escaped(letter: string): string {
  return [...Array(letter.length).keys()]
    .map((at) => `\\u${letter.charCodeAt(at).toString(16).padStart(4, '0')}`)
    .join('');
}

/**
 * In double quotes on one line, with escapes as in JSON; cut where it has more than `most` letters, by default what a
 * message should have.
 */
export function quoted(text: string, most = MAX_QUOTED): string {
  const cut = text.length > most ? `${text.slice(0, most)}…` : text;
  return JSON.stringify(cut).replace(UNPRINTABLE, escaped);
}

/** A path as it is; quoted only where it could not be shown so. */
export function shownPath(path: string): string {
  return path.search(UNPRINTABLE) < 0 && path.length <= 4096 ? path : quoted(path);
}

/** A name or a comment without quotes, with `instead` for each letter that a terminal would act upon. */
export function plain(text: string, instead: string): string {
  return text.replace(HARMFUL, instead);
}
