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
  setLocators(work, (entry) => {
    const to = moved.get(Number(entry.offset));
    if (to === undefined) return entry;
    return { ...entry, offset: BigInt(hostOffset(to)), space: roundUp(Math.max(1, entry.length), SECTOR) };
  });
}

export type LocatorEntry = ReturnType<typeof locatorStruct.decode>;

/** The code of an unused slot. */
export const NO_LOCATOR = '\0\0\0\0';

/** The slots as the header has them. */
export function locatorEntries({ parts }: Rework): LocatorEntry[] {
  const { parentLocators } = parts.placed.header;
  const count = parentLocators.length / locatorStruct.size;
  return Array.from({ length: count }, (_, n) =>
    locatorStruct.decode(parentLocators, n * locatorStruct.size),
  );
}

/**
 * Has the header hold what `change` makes of its locators; undefined for an unused slot. They lie in its second sector, so
 * that it happens with the footers, when what was written before is stable.
 */
export function setLocators(work: Rework, change: (entry: LocatorEntry) => LocatorEntry | undefined): void {
  const bytes = work.parts.placed.header.parentLocators.slice();
  locatorEntries(work).forEach((entry, n) => {
    const changed = change(entry);
    const at = n * locatorStruct.size;
    if (changed === undefined) bytes.fill(0, at, at + locatorStruct.size);
    else locatorStruct.encode(changed, bytes, at);
  });
  work.setHeader((view) => {
    new Uint8Array(view.buffer).set(bytes, headerStruct.at.parentLocators);
  });
}
