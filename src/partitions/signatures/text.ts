/** Text out of on-disk structures: what is not to be shown is replaced, for these names end on terminals. */

/** Control characters of both sets, and what turns the direction of writing round. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const UNFIT = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]/g;

const UTF8 = new TextDecoder('utf-8');
const UTF16 = new TextDecoder('utf-16le');

function shown(text: string): string {
  const end = text.indexOf('\0');
  return (end < 0 ? text : text.slice(0, end)).trimEnd().replace(UNFIT, '\ufffd');
}

/** UTF-8 up to the first NUL, without spaces at its end. */
export function utf8(bytes: Uint8Array): string {
  return shown(UTF8.decode(bytes));
}

/** One byte for each character, as ISO 8859-1. */
export function latin1(bytes: Uint8Array): string {
  return shown(Buffer.from(bytes).toString('latin1'));
}

export function utf16(bytes: Uint8Array, order: 'le' | 'be'): string {
  const even = Buffer.from(bytes.subarray(0, bytes.length & ~1));
  return shown(UTF16.decode(order === 'be' ? even.swap16() : even));
}

/** "1A2B-3C4D": the serial number of a FAT or exFAT volume. */
export function shortSerial(serial: number): string {
  const digits = serial.toString(16).toUpperCase().padStart(8, '0');
  return `${digits.slice(0, 4)}-${digits.slice(4)}`;
}
