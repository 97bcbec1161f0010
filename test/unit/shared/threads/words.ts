/** What a table's word is, of its table and index: any u32, both ends included. */
export function wordOf(table: number, index: number): number {
  if (index % 1021 === 0) return 0xffffffff;
  return Math.imul(index ^ (table * 0x9e3779b1), 0x85ebca6b) >>> 0;
}
