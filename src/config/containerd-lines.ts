/** The lines of containerd's configuration by which it finds this daemon. */
import { LayerdError } from '../core/errors.js';
import type { Settings } from './settings.js';

/** TOML for containerd's config.toml. Throws INVALID_CONFIG where the door is switched off. */
export function containerdLines(settings: Settings): string {
  const { containerd_socket: socket, root } = settings;
  if (socket === 'off') {
    throw new LayerdError('INVALID_CONFIG', 'the door for containerd is switched off', {
      hint: 'Set containerd_socket to a path.',
    });
  }
  return `# containerd 1.3 and newer
[proxy_plugins.layerd]
  type = "snapshot"
  address = ${JSON.stringify(socket)}

# containerd 1.7.24 and newer, besides:
#   capabilities = ["rebase", "remap-ids"]
#   [proxy_plugins.layerd.exports]
#     root = ${JSON.stringify(root)}

# containerd 1.7.10 and newer, besides: layers go from its content store into layerd's without being unpacked
#   [proxy_plugins.layerd-diff]
#     type = "diff"
#     address = ${JSON.stringify(socket)}
#   [plugins."io.containerd.service.v1.diff-service"]
#     default = ["layerd-diff", "walking"]

# Kubernetes (CRI of containerd 1.x; in 2.x the section is called io.containerd.cri.v1.images)
#   [plugins."io.containerd.grpc.v1.cri".containerd]
#     snapshotter = "layerd"
#     disable_snapshot_annotations = false
`;
}
