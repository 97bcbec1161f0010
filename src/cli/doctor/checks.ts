/** What a mount needs of the machine, thing by thing. Each looks and changes nothing. */

import { formatSize } from '../../base/units.ts';
import { parseMountinfo } from '../../transport/mountinfo.ts';
import { type Finding, ok, problem, warning } from './finding.ts';
import type { Machine } from './machine.ts';

/** Node 20.19 is what package.json asks for. */
const OLDEST_NODE = [20, 19] as const;
/** Each image takes a descriptor, and so does each worker and each open connection. */
const FEW_DESCRIPTORS = 1024;
/** A daemon takes 60 to 80 MiB, its table cache not counted. */
const LITTLE_MEMORY = 256 * 1024 * 1024;
const MOUNT_TYPE = 'fuse.vdisk-mount';
const SETUID = 0o4000;

export type Check = (machine: Machine) => readonly Finding[];

const runtime: Check = ({ node }) => {
  const [major = 0, minor = 0] = node.split('.').map(Number);
  const [wantedMajor, wantedMinor] = OLDEST_NODE;
  const enough = major > wantedMajor || (major === wantedMajor && minor >= wantedMinor);
  if (enough) return [ok('Node.js', node)];
  const wanted = OLDEST_NODE.join('.');
  return [problem('Node.js', `${node} is too old: ${wanted} or newer is needed`, 'See https://nodejs.org/.')];
};

const packages: Check = ({ load }) => {
  const koffi = load('koffi');
  const native = load('fuse-native');
  return [
    koffi === undefined
      ? ok('koffi', 'loads: the calls of the kernel go through it')
      : warning(
          'koffi',
          `does not load (${koffi}): images are not locked, and only root can mount`,
          'Run scripts/setup again, on the machine that is to mount.',
        ),
    native === undefined
      ? ok('fuse-native', 'loads: -o transport=fuse-native can be used')
      : ok('fuse-native', 'is not installed, and is not needed: transport=kernel is used'),
  ];
};

const device: Check = ({ open, euid }) => {
  const code = open('/dev/fuse');
  const subject = '/dev/fuse';
  switch (code) {
    case undefined:
      return [ok(subject, 'can be opened')];
    case 'ENOENT':
      return [
        problem(
          subject,
          'is not there: the kernel module is not loaded, or a container was not given the device',
          'modprobe fuse        (as root; in a container: start it with --device /dev/fuse --cap-add SYS_ADMIN)',
        ),
      ];
    case 'EACCES':
      return [
        problem(
          subject,
          `cannot be opened by ${euid === 0 ? 'root here' : 'this user'}: permission denied`,
          euid === 0
            ? 'Start the container with --device /dev/fuse.'
            : 'chmod 666 /dev/fuse        (as root; that is how distributions have it)',
        ),
      ];
    case 'EPERM':
      return [
        problem(
          subject,
          'cannot be opened: the control group of this container or service forbids the device',
          'Start the container with --device /dev/fuse; in a unit, DeviceAllow=/dev/fuse rw.',
        ),
      ];
    case 'ENODEV':
    case 'ENXIO':
      return [problem(subject, 'has no driver in this kernel', 'modprobe fuse        (as root)')];
    default:
      return [problem(subject, `cannot be opened: ${code}`, 'modprobe fuse        (as root)')];
  }
};

/** Capability CAP_SYS_ADMIN of this process (capabilities(7)). */
function mayMount({ read }: Machine): boolean {
  const mask = /^CapEff:\s*([0-9a-f]+)/m.exec(read('/proc/self/status') ?? '')?.[1];
  return mask === undefined || (BigInt(`0x${mask}`) & (1n << 21n)) !== 0n;
}

const rights: Check = (machine) => {
  const { euid, user, program, stat, read } = machine;
  if (euid === 0) {
    if (program('mount') === undefined) return [problem('mount(8)', 'is not installed', 'apt install mount')];
    return mayMount(machine)
      ? [ok('rights', 'root: mounts with mount(8)')]
      : [
          problem(
            'rights',
            'root without CAP_SYS_ADMIN, as in a container: nothing can be mounted',
            'Start the container with --cap-add SYS_ADMIN --device /dev/fuse (and --security-opt apparmor=unconfined).',
          ),
        ];
  }
  const helper = program('fusermount3') ?? program('fusermount');
  if (helper === undefined)
    return [
      problem('fusermount3', `is not installed, and ${user} cannot mount without it`, 'apt install fuse3'),
    ];
  const found = stat(helper);
  const findings: Finding[] = [];
  if (typeof found === 'string' || found.uid !== 0 || (found.mode & SETUID) === 0) {
    findings.push(problem(helper, 'is not set-user-ID root', `chmod u+s ${helper}        (as root)`));
  } else findings.push(ok(helper, 'is set-user-ID root'));
  if (/^NoNewPrivs:\s*1/m.test(read('/proc/self/status') ?? '')) {
    findings.push(
      problem(
        'rights',
        'this process may gain no privileges (NoNewPrivs), so that fusermount3 is not root',
        'In a unit: NoNewPrivileges=no, and no option that implies it (SystemCallFilter=, RestrictNamespaces=, …).',
      ),
    );
  }
  return findings;
};

const otherUsers: Check = ({ euid, read }) => {
  if (euid === 0) return [ok('allow_other', 'root may give it')];
  if (/^[ \t]*user_allow_other[ \t]*$/m.test(read('/etc/fuse.conf') ?? ''))
    return [ok('allow_other', '/etc/fuse.conf has user_allow_other')];
  return [
    warning(
      'allow_other',
      'is refused: /etc/fuse.conf does not have user_allow_other. Only this user can see its mounts: not even root can, so that losetup, mount -o loop and services get "Permission denied"',
      'echo user_allow_other >> /etc/fuse.conf        (as root), then mount with -o allow_other',
    ),
  ];
};

/** Of the container that this runs in, if it does: its kind. */
function containerOf({ read, stat }: Machine): string | undefined {
  const environment = read('/proc/1/environ') ?? '';
  const named = /(?:^|\0)container=([^\0]+)/.exec(environment)?.[1];
  if (named !== undefined) return named;
  if (typeof stat('/.dockerenv') !== 'string') return 'docker';
  if (typeof stat('/run/.containerenv') !== 'string') return 'podman';
  return undefined;
}

const container: Check = (machine) => {
  const kind = containerOf(machine);
  if (kind === undefined) return [];
  return [
    warning(
      'container',
      `this is a ${kind} container: its mounts are not seen outside, and loop devices are those of the host`,
      'To see mounts outside, share the directory: --mount type=bind,src=DIR,dst=DIR,bind-propagation=shared.',
    ),
  ];
};

const kernel: Check = ({ read }) => {
  const release = (read('/proc/sys/kernel/osrelease') ?? '').trim();
  const [major = 0, minor = 0] = release.split(/[.-]/).map(Number);
  if (major < 5 || (major === 5 && minor < 4)) {
    return [problem('kernel', `Linux ${release}: 5.4 or newer is needed`, 'Update it.')];
  }
  const notes = [
    ...(major < 6 || (major === 6 && minor < 6)
      ? ['files with partitions beside them cannot be mapped shared before 6.6']
      : []),
  ];
  return [ok('kernel', [`Linux ${release}`, ...notes].join('; '))];
};

const loop: Check = ({ stat, program, euid }) => {
  if (typeof stat('/dev/loop-control') === 'string') {
    return [
      warning(
        'loop devices',
        'there are none: the raw files cannot be attached with losetup',
        'modprobe loop        (as root; in a container they are those of the host)',
      ),
    ];
  }
  if (program('losetup') === undefined)
    return [warning('loop devices', 'losetup is not installed', 'apt install mount')];
  return [ok('loop devices', euid === 0 ? 'losetup can be used' : 'there, for root')];
};

const limits: Check = ({ read }) => {
  const [, soft = '', hard = ''] =
    /^Max open files\s+(\S+)\s+(\S+)/m.exec(read('/proc/self/limits') ?? '') ?? [];
  const most = hard === 'unlimited' ? Number.POSITIVE_INFINITY : Number(hard);
  const findings: Finding[] = [];
  if (most < FEW_DESCRIPTORS) {
    findings.push(
      warning(
        'limits',
        `a process may have ${hard} open files: mounts of more images than that will fail`,
        'ulimit -n 65536        (LimitNOFILE= in a unit)',
      ),
    );
  } else findings.push(ok('limits', `${soft} open files, at most ${hard}`));
  const free =
    Number(/^MemAvailable:\s+(\d+) kB/m.exec(read('/proc/meminfo') ?? '')?.[1] ?? Number.NaN) * 1024;
  if (free < LITTLE_MEMORY) {
    findings.push(
      warning(
        'memory',
        `${formatSize(free)} are free: a mount takes about 80 MiB`,
        'Stop something, or add swap.',
      ),
    );
  }
  return findings;
};

/** Mounts of ours whose daemon is gone. They are told by their answer alone. */
const mounts: Check = ({ read, stat, euid }) => {
  const ours = parseMountinfo(read('/proc/self/mountinfo') ?? '').filter(({ type }) => type === MOUNT_TYPE);
  const dead = ours.filter(({ mountpoint }) => {
    const answer = stat(mountpoint);
    return answer === 'ENOTCONN' || answer === 'ECONNABORTED';
  });
  if (dead.length === 0) return [ok('mounts', ours.length === 0 ? 'none now' : `${ours.length} alive`)];
  const command = euid === 0 ? 'umount -l' : 'fusermount3 -u -z';
  return dead.map(({ mountpoint }) =>
    warning(
      'mounts',
      `${mountpoint}: its daemon is gone; whoever looks there gets "Transport endpoint is not connected"`,
      `${command} '${mountpoint.replaceAll("'", "'\\''")}'        (mounting there again does it too)`,
    ),
  );
};

/** In the order in which they are shown. */
export const CHECKS: readonly Check[] = [
  runtime,
  packages,
  kernel,
  device,
  rights,
  otherUsers,
  container,
  loop,
  limits,
  mounts,
];
