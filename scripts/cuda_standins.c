/* Stand-ins for two CUDA libraries that do not exist beside a CPU build of PyTorch.
 *
 * The released torchvision and torchaudio wheels are CUDA builds. Their CPU halves are complete, but the dynamic
 * loader refuses them unless libc10_cuda.so and libtorch_cuda.so can be found and these 23 symbols resolve.
 * Nothing calls them while no CUDA device exists; a call that happens all the same aborts with the symbol's name.
 * The list belongs to torchvision 0.28.0 and torchaudio 2.11.0 (scripts/setup.py pins both).
 */
#include <stdio.h>
#include <stdlib.h>

#define STAND_IN(name)                                                                          \
    void name(void) {                                                                           \
        fprintf(stderr, "CUDA function %s was called on a machine without CUDA\n", #name);      \
        abort();                                                                                \
    }

void *_ZN3c104cuda20CUDACachingAllocator9allocatorE = NULL; /* the only variable among them */

STAND_IN(_ZN2at4cuda26getCurrentDevicePropertiesEv)
STAND_IN(_ZN3c104cuda12device_countEv)
STAND_IN(_ZN3c104cuda14ExchangeDeviceEa)
STAND_IN(_ZN3c104cuda14MaybeSetDeviceEa)
STAND_IN(_ZN3c104cuda14current_deviceEv)
STAND_IN(_ZN3c104cuda17getStreamFromPoolEba)
STAND_IN(_ZN3c104cuda17getStreamFromPoolEia)
STAND_IN(_ZN3c104cuda20getCurrentCUDAStreamEa)
STAND_IN(_ZN3c104cuda20getDefaultCUDAStreamEa)
STAND_IN(_ZN3c104cuda20setCurrentCUDAStreamENS0_10CUDAStreamE)
STAND_IN(_ZN3c104cuda29c10_cuda_check_implementationEiPKcS2_jb)
STAND_IN(_ZN3c104cuda9GetDeviceEPa)
STAND_IN(_ZN3c104cuda9SetDeviceEab)
STAND_IN(_ZNK3c104cuda10CUDAStream11synchronizeEv)
STAND_IN(_ZNK3c104cuda10CUDAStream5queryEv)
STAND_IN(_ZNK3c104cuda10CUDAStream6streamEv)
STAND_IN(aoti_torch_get_current_cuda_stream)
STAND_IN(torch_c10_cuda_check_msg)
STAND_IN(torch_c10_cuda_free_error_msg)
STAND_IN(torch_cuda_stream_synchronize)
STAND_IN(torch_get_cuda_stream_from_pool)
STAND_IN(torch_set_current_cuda_stream)
