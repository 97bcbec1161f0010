/** Mount namespaces of tests. */

/**
 * Shell: gives a new namespace a table of mount(8) of its own (/run/mount is a directory of the machine, whatever
 * namespace one is in), which goes with it, however it ends. Then lets go of what a new namespace inherited from tests that
 * run beside it, mounts of vdisk-mount and file systems on loop devices: a copy of a mount keeps its daemon alive, and its
 * device busy, after the mount itself is gone. (In the mount table a space is \040.)
 */
export const LET_GO = String.raw`
mkdir -p /run/mount && mount -n -t tmpfs -o mode=755 tmpfs /run/mount || exit 1
while read -r device place type _; do
  case $type:$device in fuse.vdisk-mount:* | *:/dev/loop*)
    umount -l "$(printf '%b' "$(printf '%s' "$place" | sed 's/\\/\\0/g')")"
  esac
done </proc/self/mounts
`;
