/**
 * Sixteen-byte identities. VHDX and VDI store them in the Microsoft layout (u32, u16, u16 little-endian, then
 * eight bytes); VHD stores them in network order. Identity is always equality of the sixteen bytes: these
 * functions are for people and for constants only.
 */

const HEX = /^\{?([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{12})\}?$/i;
/** Place in the text (as hex digit pairs) of each byte of the Microsoft layout. */
const MIXED = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];

function grouped(digits: string): string {
  return [0, 8, 12, 16, 20].map((at, n) => digits.slice(at, [8, 12, 16, 20, 32][n])).join('-');
}

/** "2dc27766-f623-4200-9d64-115e9bfd4a08" from sixteen bytes in the Microsoft layout. */
export function formatGuid(bytes: Uint8Array): string {
  return grouped(MIXED.map((at) => (bytes[at] ?? 0).toString(16).padStart(2, '0')).join(''));
}

/** The same from sixteen bytes in network order (VHD). */
export function formatUuid(bytes: Uint8Array): string {
  return grouped([...bytes.subarray(0, 16)].map((byte) => byte.toString(16).padStart(2, '0')).join(''));
}

/** The sixteen bytes in the Microsoft layout; undefined where the text is no GUID. Braces are allowed. */
export function parseGuid(text: string): Uint8Array | undefined {
  const match = HEX.exec(text);
  if (match === null) return undefined;
  const digits = match.slice(1).join('');
  const bytes = new Uint8Array(16);
  for (let n = 0; n < 16; n += 1) bytes[MIXED[n]!] = Number.parseInt(digits.slice(n * 2, n * 2 + 2), 16);
  return bytes;
}

/** The same in network order (VHD). */
export function parseUuid(text: string): Uint8Array | undefined {
  const guid = parseGuid(text);
  return guid === undefined ? undefined : Uint8Array.from(MIXED, (at) => guid[at]!);
}

export function isZero(bytes: Uint8Array): boolean {
  return bytes.every((byte) => byte === 0);
}

export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, at) => byte === b[at]);
}

/** A new random identity (RFC 4122, version 4), in the Microsoft layout. */
export function randomGuid(): Uint8Array {
  const bytes = new Uint8Array(16);
  crypto.getRandomValues(bytes);
  // The version stands in the third group, which that layout turns round.
  bytes[7] = (bytes[7]! & 0x0f) | 0x40;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  return bytes;
}
