/** Mount namespaces of tests. */

/**
 * Shell: gives a new namespace a table of mount(8) of its own (/run/mount is a directory of the machine, whatever
 * namespace one is in), which goes with it, however it ends; then lets go of the mounts of vdisk-mount that a new namespace inherited from tests that run beside it. A copy of a
 * mount keeps its daemon alive after the mount itself is gone. (In the mount table a space is \040.)
 */
export const LET_GO = String.raw`
mkdir -p /run/mount && mount -n -t tmpfs -o mode=755 tmpfs /run/mount || exit 1
while read -r _ place type _; do
  if [ "$type" = fuse.vdisk-mount ]; then
    umount -l "$(printf '%b' "$(printf '%s' "$place" | sed 's/\\/\\0/g')")"
  fi
done </proc/self/mounts
`;
