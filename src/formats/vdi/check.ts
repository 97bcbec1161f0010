/** Looking a VDI through for damage. Reads only. */

import { hex } from '../../base/units.ts';
import { CheckCollector, type CheckReport } from '../../image/check.ts';
import type { OpenContext } from '../../image/driver.ts';
import type { BlockSource } from '../../source/block-source.ts';
import { anyHeaderSize, readHeader, type VdiHeader } from './header.ts';
import { blocksName, type MapScan, placeName, scanMap, strideOf, unusedRuns } from './map-scan.ts';
import { counterPlace, ENTRY_ZERO, TYPE_FIXED } from './structs.ts';

/** Throws ImageError where the image cannot be opened, or its map cannot be read. */
export function checkVdi(source: BlockSource, context: OpenContext): CheckReport {
  const findings = new CheckCollector();
  const header = readHeader(source, anyHeaderSize(context), (notice) => findings.warning(notice));
  const { blockSize, virtualSize } = header;
  const needed = Math.ceil(virtualSize / blockSize);
  let mapped = 0;
  let spare = 0;
  const scan = scanMap(
    header,
    source,
    (text) => findings.error(text),
    (block) => {
      if (block >= needed) {
        spare += 1;
        return;
      }
      mapped += 1;
      findings.allocated(Math.min(blockSize, virtualSize - block * blockSize));
    },
  );
  if (spare > 0) {
    findings.warning(`VDI block map: ${spare} entries behind the end of the disk name physical blocks`);
  }
  if (header.type === TYPE_FIXED && mapped < needed) {
    findings.warning(
      `VDI block map: ${needed - mapped} of ${needed} blocks have no place, though the image is fixed`,
    );
  }
  const end = checkCounter(header, scan, findings);
  checkSpace(header, scan, end, source.size, findings);
  return findings.report();
}

/** Used numbers are 0 to counter - 1. Returns the first number behind all that are taken, as far as the file goes. */
function checkCounter(header: VdiHeader, scan: MapScan, findings: CheckCollector): number {
  const { blocksAllocated, blocks } = header;
  const place = `VDI header at ${hex(counterPlace(header.version))}`;
  const said = `${blocksAllocated} blocks are said to be allocated`;
  if (blocksAllocated < scan.end) {
    findings.error(
      `${place}: ${said}, but physical block ${scan.end - 1} is in use; other programs would write over ` +
        blocksName(blocksAllocated, scan.end - blocksAllocated),
    );
  }
  // Above the number of blocks: the header's own notice.
  if (blocksAllocated > scan.held && blocksAllocated <= blocks) {
    findings.warning(`${place}: ${said}, the file has ${scan.held}`);
  }
  return Math.max(scan.end, Math.min(blocksAllocated, scan.held, blocks, ENTRY_ZERO));
}

function checkSpace(
  header: VdiHeader,
  scan: MapScan,
  end: number,
  size: number,
  findings: CheckCollector,
): void {
  const stride = strideOf(header);
  for (const [first, count] of unusedRuns(scan, end)) {
    const from = header.dataOffset + first * stride;
    findings.leak(
      `VDI data area at ${placeName(header, first)}: no entry names ${blocksName(first, count)}`,
      Math.min(count * stride, size - from),
    );
  }
  const fileEnd = header.dataOffset + end * stride;
  if (size > fileEnd) {
    findings.leak(
      `VDI data area at ${hex(fileEnd)}: ${size - fileEnd} bytes follow the last block that is allocated`,
      size - fileEnd,
    );
  }
}
