/** Bits of sector bitmaps in plain memory, lowest first ([MS-VHDX] 2.4). */

/** Makes bits `from` to `end - 1` of `bytes` what `isSet` says. */
export function fillBits(bytes: Uint8Array, from: number, end: number, isSet: boolean): void {
  for (let bit = from; bit < end; ) {
    if (bit % 8 === 0 && bit + 8 <= end) {
      const whole = Math.floor((end - bit) / 8);
      bytes.fill(isSet ? 0xff : 0, bit / 8, bit / 8 + whole);
      bit += whole * 8;
      continue;
    }
    const mask = 1 << (bit % 8);
    const at = Math.floor(bit / 8);
    bytes[at] = isSet ? bytes[at]! | mask : bytes[at]! & ~mask;
    bit += 1;
  }
}

/** Calls `each` with every run of bits that are clear. */
export function eachClearRun(
  bytes: Uint8Array,
  end: number,
  each: (from: number, end: number) => void,
): void {
  let from = -1;
  for (let bit = 0; bit < end; bit += 1) {
    if (from < 0 && bit % 8 === 0 && bytes[bit / 8] === 0xff) {
      bit += 7;
      continue;
    }
    const isSet = (bytes[Math.floor(bit / 8)]! & (1 << (bit % 8))) !== 0;
    if (!isSet && from < 0) from = bit;
    else if (isSet && from >= 0) {
      each(from, bit);
      from = -1;
    }
  }
  if (from >= 0) each(from, end);
}
