/**
 * The kubelet's side of CRI (runtime.v1 of k8s.io/cri-api) as far as images, pods and containers need it: what crictl does,
 * which Debian does not have.
 */
import { Client, credentials } from '@grpc/grpc-js';
import {
  bytes,
  int,
  map,
  message,
  nested,
  repeated,
  string,
  strings,
  type Message,
  type Of,
} from '../../src/doors/containerd/protobuf.js';

const Empty = message({});
const ImageSpec = message({ image: string(1) });
const PodMetadata = message({ name: string(1), uid: string(2), namespace: string(3) });
const NamespaceOption = message({ network: int(1), pid: int(2) });
const PodSecurity = message({ namespaces: nested(1, NamespaceOption) });
const LinuxPod = message({ security: nested(2, PodSecurity) });
const PodConfig = message({
  metadata: nested(1, PodMetadata),
  logDirectory: string(3),
  linux: nested(8, LinuxPod),
});
const ContainerMetadata = message({ name: string(1) });
const LinuxContainer = message({ security: nested(2, message({ namespaces: nested(3, NamespaceOption) })) });
const ContainerConfig = message({
  metadata: nested(1, ContainerMetadata),
  image: nested(2, ImageSpec),
  command: strings(3),
  labels: map(9),
  logPath: string(11),
  linux: nested(15, LinuxContainer),
});
const Count = message({ value: int(1) });
const FilesystemUsage = message({
  timestamp: int(1),
  place: nested(2, message({ mountpoint: string(1) })),
  usedBytes: nested(3, Count),
  inodes: nested(4, Count),
});
export type FilesystemUsage = Of<typeof FilesystemUsage>;
const ContainerId = message({ id: string(1) });
const PodId = message({ id: string(1) });
const ExecRequest = message({ id: string(1), command: strings(2), timeout: int(3) });
const ExecResponse = message({ stdout: bytes(1), stderr: bytes(2), exitCode: int(3) });
const StatsResponse = message({ stats: nested(1, message({ writableLayer: nested(4, FilesystemUsage) })) });

/** NamespaceMode: of the node, so that no network plugin is needed. */
const NODE = 2;

export class CriClient {
  private readonly client: Client;
  private readonly pod: Of<typeof PodConfig>;

  /** `logs`: where the runtime puts what containers print. */
  constructor(address: string, logs: string) {
    this.client = new Client(`unix:${address}`, credentials.createInsecure());
    const namespaces = { network: NODE, pid: 0 };
    this.pod = {
      metadata: { name: 'pod', uid: 'uid-of-the-pod', namespace: 'default' },
      logDirectory: logs,
      linux: { security: { namespaces } },
    };
  }

  close(): void {
    this.client.close();
  }

  /** Returns the reference that the image has from now on. */
  async pull(image: string): Promise<string> {
    const request = message({ image: nested(1, ImageSpec), pod: nested(3, PodConfig) });
    const value = { image: { image }, pod: this.pod };
    return (await this.call('ImageService/PullImage', request, ContainerId, value)).id;
  }

  async removeImage(image: string): Promise<void> {
    await this.call('ImageService/RemoveImage', message({ image: nested(1, ImageSpec) }), Empty, { image: { image } });
  }

  /** What the images take, as the kubelet reads it to decide about collecting. */
  async imageFileSystems(): Promise<FilesystemUsage[]> {
    const answer = message({ found: repeated(1, FilesystemUsage) });
    return (await this.call('ImageService/ImageFsInfo', Empty, answer, {})).found;
  }

  async runPod(): Promise<string> {
    const request = message({ config: nested(1, PodConfig) });
    return (await this.call('RuntimeService/RunPodSandbox', request, PodId, { config: this.pod })).id;
  }

  async pods(): Promise<string[]> {
    const answer = message({ found: repeated(1, PodId) });
    return (await this.call('RuntimeService/ListPodSandbox', Empty, answer, {})).found.map(({ id }) => id);
  }

  async createContainer(pod: string, name: string, image: string, command: string[]): Promise<string> {
    const request = message({ pod: string(1), config: nested(2, ContainerConfig), sandbox: nested(3, PodConfig) });
    const config = {
      metadata: { name },
      image: { image },
      command,
      labels: {},
      logPath: `${name}.log`,
      linux: { security: { namespaces: { network: NODE, pid: 1 } } },
    };
    const value = { pod, config, sandbox: this.pod };
    return (await this.call('RuntimeService/CreateContainer', request, ContainerId, value)).id;
  }

  async start(id: string): Promise<void> {
    await this.call('RuntimeService/StartContainer', ContainerId, Empty, { id });
  }

  /** Runs a command in a container to its end. */
  async exec(id: string, ...command: string[]): Promise<{ exitCode: number; stdout: string; stderr: string }> {
    const value = { id, command, timeout: 60 };
    const { exitCode, stdout, stderr } = await this.call('RuntimeService/ExecSync', ExecRequest, ExecResponse, value);
    return { exitCode, stdout: stdout.toString(), stderr: stderr.toString() };
  }

  async writableLayer(id: string): Promise<FilesystemUsage | null> {
    const { stats } = await this.call('RuntimeService/ContainerStats', ContainerId, StatsResponse, { id });
    return stats?.writableLayer ?? null;
  }

  async removeContainer(id: string): Promise<void> {
    await this.call('RuntimeService/StopContainer', ContainerId, Empty, { id });
    await this.call('RuntimeService/RemoveContainer', ContainerId, Empty, { id });
  }

  async removePod(id: string): Promise<void> {
    await this.call('RuntimeService/StopPodSandbox', PodId, Empty, { id });
    await this.call('RuntimeService/RemovePodSandbox', PodId, Empty, { id });
  }

  private call<Q, A>(method: string, question: Message<Q>, answer: Message<A>, value: Q): Promise<A> {
    return new Promise((resolve, reject) => {
      this.client.makeUnaryRequest(
        `/runtime.v1.${method}`,
        (asked: Q) => question.encode(asked),
        (encoded) => answer.decode(encoded),
        value,
        (error, result) => (result === undefined ? reject(error ?? new Error('no answer')) : resolve(result)),
      );
    });
  }
}
