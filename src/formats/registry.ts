/** The formats, in the order in which they are listed to users. A new format is a folder and a line here. */

import type { FormatDriver, FormatId } from '../image/driver.ts';
import { qedDriver } from './qed/driver.ts';
import { rawDriver } from './raw/driver.ts';
import { vdiDriver } from './vdi/driver.ts';
import { vhdDriver } from './vhd/driver.ts';
import { vhdxDriver } from './vhdx/driver.ts';

export const DRIVERS: readonly FormatDriver[] = [vhdDriver, vhdxDriver, vdiDriver, qedDriver, rawDriver];

/** The driver of a format that is in the list. */
export function driverOf(id: FormatId): FormatDriver {
  const driver = DRIVERS.find((candidate) => candidate.id === id);
  if (driver === undefined) throw new Error(`no driver for format ${id}`);
  return driver;
}
