#include "cpu/taps.h"

#include "cpu/variant.h"

namespace modnas_fast {
namespace MODNAS_FAST_ISA {

void taps(const TapsArguments& arguments, const Window& window) { taps_window(arguments, window); }

}  // namespace MODNAS_FAST_ISA
}  // namespace modnas_fast
