/**
 * Addresses that must never be mixed up. A guest offset is a place in the flat disk that users see; a host
 * offset is a place in one source (the image file). All are safe integers: 2^53 bytes are 8 PiB, above the
 * limit of every format here.
 */

declare const unit: unique symbol;
type Unit<Name extends string> = number & { readonly [unit]: Name };

/** Byte address in the disk. */
export type GuestOffset = Unit<'guest byte'>;
/** Byte address in a source. */
export type HostOffset = Unit<'host byte'>;
/** A length in bytes. */
export type ByteCount = number;

export const guestOffset = (bytes: number): GuestOffset => bytes as GuestOffset;
export const hostOffset = (bytes: number): HostOffset => bytes as HostOffset;

export const KIB = 1024;
export const MIB = 1024 * 1024;
export const GIB = 1024 * MIB;
export const TIB = 1024 * GIB;

/** `value` rounded up to a multiple of `step`. Both are non-negative safe integers, `step` above 0. */
export function roundUp(value: number, step: number): number {
  const rest = value % step;
  return rest === 0 ? value : value + (step - rest);
}

/** `value` rounded down to a multiple of `step`. */
export function roundDown(value: number, step: number): number {
  return value - (value % step);
}

/** True for 1, 2, 4, … up to 2^52. */
export function isPowerOfTwo(value: number): boolean {
  return Number.isSafeInteger(value) && value > 0 && Number.isInteger(Math.log2(value));
}

/** "0x20000": how places are written in messages. */
export function hex(value: number | bigint): string {
  return `0x${value.toString(16)}`;
}

/** "10.5 GiB (11274289152 bytes)": how sizes are written for people. */
export function formatSize(bytes: number): string {
  const steps = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let value = bytes;
  let step = 0;
  while (value >= 1024 && step < steps.length - 1) {
    value /= 1024;
    step += 1;
  }
  if (step === 0) return `${bytes} bytes`;
  return `${Number(value.toFixed(2))} ${steps[step]} (${bytes} bytes)`;
}

/**
 * Reads "64M", "1.5GiB", "4096": a size in bytes as users write it, suffixes K M G T P being powers of 1024.
 * Returns undefined where the text is not a size.
 */
export function parseSize(text: string): number | undefined {
  const match = /^(\d+(?:\.\d+)?)\s*([kmgtp]?)(?:i?b)?$/i.exec(text.trim());
  if (match === null) return undefined;
  const power = ' kmgtp'.indexOf((match[2] ?? '').toLowerCase() || ' ');
  const bytes = Math.round(Number(match[1]) * 1024 ** power);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}
