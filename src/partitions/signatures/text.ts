/** Text out of on-disk structures: what is not to be shown is replaced, for these names end on terminals. */

import { plain } from '../../base/text.ts';

const UTF8 = new TextDecoder('utf-8');
const UTF16 = new TextDecoder('utf-16le');

function shown(text: string): string {
  const end = text.indexOf('\0');
  return plain((end < 0 ? text : text.slice(0, end)).trimEnd(), '\ufffd');
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
