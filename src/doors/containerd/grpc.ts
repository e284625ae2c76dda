/** Methods of a gRPC service as this door writes them, and errors as gRPC has them. */
import type {
  handleServerStreamingCall,
  handleUnaryCall,
  MethodDefinition,
  sendUnaryData,
  ServiceDefinition,
  ServiceError,
  UntypedHandleCall,
} from '@grpc/grpc-js';
import { status, Metadata } from '@grpc/grpc-js';
import { LayerdError, toLayerdError, type ErrorKind } from '../../core/errors.js';
import type { Message } from './protobuf.js';

/** A method ready to be served. */
export interface Method {
  definition: ServiceDefinition[string];
  handle: (watch: Watch) => UntypedHandleCall;
}

/** Told of every call when it begins; what it gives is told how the call ended: gRPC's name of it, and the error. */
export type Watch = (path: string) => (code: string, error: LayerdError | null) => void;

/** A method that answers a message with a message. */
export function unary<Q, A>(
  path: string,
  question: Message<Q>,
  answer: Message<A>,
  work: (question: Q, signal: AbortSignal) => Promise<A>,
): Method {
  const handle =
    (watch: Watch): handleUnaryCall<Q, A> =>
    (call, callback) => {
      const gone = new AbortController();
      call.on('cancelled', () => gone.abort());
      void settle(() => work(call.request, gone.signal), callback, watch(path));
    };
  return { definition: definition(path, question, answer, false), handle };
}

async function settle<A>(work: () => Promise<A>, callback: sendUnaryData<A>, ended: ReturnType<Watch>): Promise<void> {
  try {
    callback(null, await work());
    ended('OK', null);
  } catch (thrown) {
    const error = toLayerdError(thrown);
    callback(grpcError(error));
    ended(status[CODES[error.kind]], error);
  }
}

/** A method that answers with a stream of messages. */
export function streaming<Q, A>(
  path: string,
  question: Message<Q>,
  answer: Message<A>,
  work: (question: Q) => Iterable<A>,
): Method {
  const handle =
    (watch: Watch): handleServerStreamingCall<Q, A> =>
    (call) => {
      const ended = watch(path);
      const send = async (): Promise<void> => {
        for (const value of work(call.request)) {
          if (call.cancelled) throw new LayerdError('CANCELLED', 'the client hung up');
          if (!call.write(value)) {
            await new Promise((resolve) => call.once('drain', resolve).once('cancelled', resolve));
          }
        }
        call.end();
      };
      send().then(
        () => ended('OK', null),
        (thrown: unknown) => {
          const error = toLayerdError(thrown);
          // a call that is destroyed instead leaves its client waiting
          call.emit('error', grpcError(error));
          ended(status[CODES[error.kind]], error);
        },
      );
    };
  return { definition: definition(path, question, answer, true), handle };
}

function definition<Q, A>(
  path: string,
  question: Message<Q>,
  answer: Message<A>,
  responseStream: boolean,
): MethodDefinition<Q, A> {
  return {
    path,
    requestStream: false,
    responseStream,
    requestSerialize: (value) => question.encode(value),
    requestDeserialize: (bytes) => question.decode(bytes),
    responseSerialize: (value) => answer.encode(value),
    responseDeserialize: (bytes) => answer.decode(bytes),
  };
}

const CODES: Record<ErrorKind, status> = {
  invalid: status.INVALID_ARGUMENT,
  not_found: status.NOT_FOUND,
  exists: status.ALREADY_EXISTS,
  precondition: status.FAILED_PRECONDITION,
  busy: status.UNAVAILABLE,
  exhausted: status.RESOURCE_EXHAUSTED,
  denied: status.PERMISSION_DENIED,
  unsupported: status.UNIMPLEMENTED,
  data_loss: status.DATA_LOSS,
  cancelled: status.CANCELLED,
  internal: status.INTERNAL,
};

/** An error as a client of gRPC meets it: the code decides what containerd does, the text is for people. */
function grpcError(error: LayerdError): Pick<ServiceError, 'code' | 'details' | 'metadata'> & Error {
  const details = error.hint === '' ? error.message : `${error.message} (${error.hint})`;
  return Object.assign(new Error(details), { code: CODES[error.kind], details, metadata: new Metadata() });
}
