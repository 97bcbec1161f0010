/** Reading the structures that opening an image needs, with the place in every failure. */

import { corrupt, ImageError } from '../../base/errors.ts';
import { parseGuid } from '../../base/guid.ts';
import { hex } from '../../base/units.ts';
import { type BlockSource, readExactly } from '../../source/block-source.ts';

/** `length` bytes of `object` at host offset `at`. Throws ImageError: 'io', or 'corrupt' where the file ends. */
export function readObject(source: BlockSource, object: string, at: number, length: number): Uint8Array {
  return readExactly(source, at, length, (outcome) =>
    outcome < 0
      ? new ImageError('io', `${object} at ${hex(at)}: reading failed (errno ${-outcome})`)
      : corrupt(
          `${object} at ${hex(at)}: the file ends too early, expected ${length} bytes, found ${outcome}`,
        ),
  );
}

const UTF16 = new TextDecoder('utf-16le');

/** UTF-16LE text for people: up to a NUL, control characters shown as "?". */
export function decodeText(bytes: Uint8Array): string {
  const [text = ''] = UTF16.decode(bytes).split('\0', 1);
  return text.replace(/\p{Cc}/gu, '?');
}

/** The bytes of a GUID that is a constant, or came from an image that was opened. */
export function guidOf(text: string): Uint8Array {
  const bytes = parseGuid(text);
  if (bytes === undefined) throw new ImageError('bug', `"${text}" is no GUID`);
  return bytes;
}
