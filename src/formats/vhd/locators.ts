/** Where the paths of the parent lie in the file, when that changes. */

import { hostOffset, roundUp } from '../../base/units.ts';
import type { Rework } from './rework.ts';
import { headerStruct, locatorStruct, SECTOR } from './structs.ts';

/** Copies what the locators name into room of its own, and has the header name that. */
export function moveLocators(work: Rework): void {
  const locators = work.parts.parent?.locators ?? [];
  const moved = new Map<number, number>();
  for (const { at, end } of locators) {
    if (moved.has(at)) continue;
    const to = work.take(Math.max(1, end - at));
    work.writeSectors(to, work.read(at, end - at), 'header.write');
    moved.set(at, to);
  }
  work.flush();
  setLocators(work, (entry) => {
    const to = moved.get(Number(entry.offset));
    if (to === undefined) return entry;
    return { ...entry, offset: BigInt(hostOffset(to)), space: roundUp(Math.max(1, entry.length), SECTOR) };
  });
}

type Entry = ReturnType<typeof locatorStruct.decode>;

/** Has the header hold what `change` makes of its locators; undefined for an unused slot. */
export function setLocators(work: Rework, change: (entry: Entry, slot: number) => Entry | undefined): void {
  const { parentLocators } = work.parts.placed.header;
  const bytes = parentLocators.slice();
  for (let slot = 0; slot * locatorStruct.size < bytes.length; slot += 1) {
    const at = slot * locatorStruct.size;
    const entry = change(locatorStruct.decode(parentLocators, at), slot);
    if (entry === undefined) bytes.fill(0, at, at + locatorStruct.size);
    else locatorStruct.encode(entry, bytes, at);
  }
  work.setHeader((view) => {
    new Uint8Array(view.buffer).set(bytes, headerStruct.at.parentLocators);
  });
}
